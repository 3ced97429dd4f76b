//! Says every 50 ms that it runs, in a file that no partition keeps it from writing: a witness outside of what is tested.

use std::fs::{File, read_to_string};
use std::io::Write;
use std::time::Duration;

/// The time that everybody on the machine agrees on, in seconds since its boot.
fn uptime() -> String {
    let text = read_to_string("/proc/uptime").expect("there is a /proc");
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn main() {
    let (node, born) = (std::env::var("NODE").unwrap_or_default(), uptime());
    let mut witness = File::create(format!("/witness/{node}-{born}")).expect("the witness can be written");
    loop {
        witness.write_all(format!("{}\n", uptime()).as_bytes()).expect("the witness can be written");
        std::thread::sleep(Duration::from_millis(50));
    }
}
