#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kv_node_fuzz::checks::aof::check(data));
