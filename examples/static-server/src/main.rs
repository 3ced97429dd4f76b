//! A program in Rust, without any library: answers every request with its own id and path. Built as one static file, it runs
//! in an image with nothing in it.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

fn main() -> std::io::Result<()> {
    let port = env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    println!("listening on port {port}");
    for connection in listener.incoming() {
        let connection = connection?;
        // A client that goes away is no reason to end.
        thread::spawn(move || drop(answer(connection)));
    }
    Ok(())
}

/// Answers the requests of one connection, one after the other, until it is closed.
fn answer(connection: TcpStream) -> std::io::Result<()> {
    let mut output = connection.try_clone()?;
    let mut lines = BufReader::new(connection).lines();
    while let Some(request) = lines.next().transpose()? {
        // The rest of the head; requests with a body are more than this example does.
        while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
        let path = request.split(' ').nth(1).unwrap_or("/");
        let program = env::var("ALEPH_PROGRAM_ID").unwrap_or_default();
        let body = format!("{{\"language\":\"rust\",\"path\":{path:?},\"program\":{program:?}}}\n");
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        output.write_all((head + &body).as_bytes())?;
    }
    Ok(())
}
