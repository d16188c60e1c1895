#![no_main]

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What the databases take whose first key is in the file, twice over.
const AT_FIRST: usize = 64 << 20;
/// The most that a byte of the file may come to. The worst are compressed zeros.
const PER_BYTE: usize = 1024;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    kv_node_fuzz::checks::rdb::check(data);
    let taken = MEMORY.peak_usage().saturating_sub(before);
    assert!(taken < AT_FIRST + PER_BYTE * data.len(), "{} bytes take {taken} bytes of memory", data.len());
});
