//! A program that does as little as possible, so that what is before it is measured: a thread for each connection, no library.
//!
//! `…/bytes/N` is answered with N bytes, a request with a body with how many bytes that had, everything else with `ok`.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// Bytes that are written or read at a time.
const PIECE: usize = 64 << 10;

fn main() -> std::io::Result<()> {
    let port = env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    for connection in listener.incoming() {
        let connection = connection?;
        // A client that goes away is no reason to end.
        thread::spawn(move || drop(answer(connection)));
    }
    Ok(())
}

/// Answers the requests of one connection, one after the other, until it is closed.
fn answer(connection: TcpStream) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut output = connection.try_clone()?;
    let mut input = BufReader::with_capacity(PIECE, connection);
    let piece = vec![b'x'; PIECE];
    let mut line = String::new();
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let wanted = line.split(' ').nth(1).and_then(|path| path.rsplit_once("/bytes/")?.1.parse::<u64>().ok());
        let body = match read_head(&mut input)? {
            Some(length) => format!("{}\n", std::io::copy(&mut (&mut input).take(length), &mut std::io::sink())?),
            None => "ok\n".to_owned(),
        };
        let head =
            |length: u64| format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n");
        let Some(mut left) = wanted else {
            output.write_all((head(body.len() as u64) + &body).as_bytes())?;
            continue;
        };
        output.write_all(head(left).as_bytes())?;
        while left > 0 {
            let next = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            output.write_all(&piece[..next])?;
            left -= next as u64;
        }
    }
}

/// Reads the rest of a head; the length of the body, if there is one.
fn read_head(input: &mut BufReader<TcpStream>) -> std::io::Result<Option<u64>> {
    let (mut line, mut length) = (String::new(), None);
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 || line == "\r\n" {
            return Ok(length);
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
}
