#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| message_node::fuzzing::message(bytes));
