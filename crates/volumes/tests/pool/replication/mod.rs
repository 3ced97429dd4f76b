//! Volumes of a program on their way to another node, on real pools over connections that break.

mod cable;
mod continuous;
mod faults;
mod measure;
mod sender;
