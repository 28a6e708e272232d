//! Who is connected with whom on this machine, from what the kernel tells in `/proc`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// One end of an established connection on 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The port of this end.
    pub local_port: u16,
    /// The port of the other end.
    pub remote_port: u16,
    inode: u64,
}

/// Both ends of every connection on 127.0.0.1.
pub fn ends() -> Vec<End> {
    let table = fs::read_to_string("/proc/net/tcp").expect("the kernel's table of connections");
    table.lines().filter_map(parse).collect()
}

/// Reads `sl local remote state .. inode`, where an address is `IP:PORT` in hexadecimal and the state of an established connection is 01.
fn parse(line: &str) -> Option<End> {
    let mut words = line.split_whitespace().skip(1);
    let port = |word: &str| u16::from_str_radix(word.strip_prefix("0100007F:")?, 16).ok();
    let (local_port, remote_port) = (port(words.next()?)?, port(words.next()?)?);
    (words.next()? == "01").then_some(End {
        local_port,
        remote_port,
        inode: words.nth(5)?.parse().ok()?,
    })
}

/// A process, by what it was started with.
#[derive(Clone, Debug)]
pub struct Process {
    id: u32,
    words: Vec<String>,
}

impl Process {
    /// All processes in whose command line `part` is.
    pub fn with(part: &str) -> Vec<Process> {
        let entries = fs::read_dir("/proc").expect("a list of processes");
        let ids = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let process = |id: u32| {
            let command = fs::read(format!("/proc/{id}/cmdline")).ok()?;
            let words = String::from_utf8_lossy(&command);
            let words: Vec<String> = words.split('\0').map(str::to_owned).collect();
            let wanted = words.iter().any(|word| word.contains(part));
            wanted.then_some(Process { id, words })
        };
        ids.filter_map(process).collect()
    }

    /// What follows `flag` in its command line.
    pub fn flag(&self, flag: &str) -> Option<&str> {
        let place = self.words.iter().position(|word| word == flag)?;
        self.words.get(place + 1).map(String::as_str)
    }

    /// The sockets it holds; none when it has ended.
    pub fn sockets(&self) -> Sockets {
        let files = fs::read_dir(format!("/proc/{}/fd", self.id));
        let links = files.into_iter().flatten().flatten();
        let links = links.filter_map(|file| fs::read_link(file.path()).ok());
        Sockets(links.filter_map(|link| inode(&link)).collect())
    }
}

/// The sockets of a process.
pub struct Sockets(BTreeSet<u64>);

impl Sockets {
    /// Whether this end is one of them.
    pub fn have(&self, end: End) -> bool {
        self.0.contains(&end.inode)
    }
}

/// The inode of `socket:[inode]`.
fn inode(link: &Path) -> Option<u64> {
    let inode = link.to_str()?.strip_prefix("socket:[")?;
    inode.strip_suffix(']')?.parse().ok()
}
