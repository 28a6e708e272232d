//! What a node may take of the machine's memory, and what it takes.

/// Memory that a node may take whatever its clients do, but for what each connection and each watch stream costs by being there, and for
/// the index of its keys. docs/reliability.md adds it up.
const FIXED_BYTES: u64 = 1 << 30;
/// A connection: its buffers and what HTTP/2 has received for it that nobody has looked at.
const CONNECTION_BYTES: u64 = 64 << 10;
/// A watch stream: its task, its queue's own, and the last piece of what it was sent.
const WATCH_STREAM_BYTES: u64 = 64 << 10;

/// What a node of a group must stay below, when so many clients have come to it.
pub fn memory_bound_bytes(connections: usize, watch_streams: usize) -> u64 {
    FIXED_BYTES + CONNECTION_BYTES * connections as u64 + WATCH_STREAM_BYTES * watch_streams as u64
}

/// The resident memory of a process, now and at most so far.
pub fn resident_bytes(process: u32) -> (u64, u64) {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(path).expect("the process runs");
    let of = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = kib.and_then(|kib| kib.parse().ok()).expect("a size in kB");
        kib << 10
    };
    (of("VmRSS:"), of("VmHWM:"))
}
