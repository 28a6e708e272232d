//! Golden scripts: what the log answers, and what it asks of the disk, line by line.
//!
//! The order of writes, syncs and renames is the durability argument; here it can be read. To take over changed outcomes, run the test
//! with `UPDATE_GOLDENFILES=1` and look at the difference.

mod common;

use common::{DIR, SMALL, frame, open};
use eaves_log::sim::SimDisk;
use eaves_log::{Base, Chain, Disk, FlushJob, Log, LogId};
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

/// The language of the scripts.
#[derive(goldenscript::Command)]
enum Command {
    /// Appends entries of a term with payloads of these sizes. Example: append 1 100 20
    Append {
        term: u64,
        payload_bytes: Vec<usize>,
    },
    /// Cuts the log after this index, or altogether if none is given. Example: cut 5
    Cut { keep: Option<u64> },
    /// Saves a hard state. Example: vote T5
    Vote(String),
    /// Installs a base. Example: reset 3 100 chain=7
    Reset {
        term: u64,
        index: u64,
        #[arg(key)]
        chain: u64,
    },
    /// Purges up to an index. Example: purge 5
    Purge(u64),
    /// Releases up to an index. Example: release 5
    Release(u64),
    /// Takes a flush job, without running it yet.
    Take,
    /// Runs the job that was taken, or all that waits.
    Flush,
    /// Reads. Example: read 3 8 bytes=200
    Read {
        from: u64,
        to: u64,
        #[arg(key, optional)]
        bytes: Option<usize>,
    },
    /// Shows what the log says of itself.
    Status,
    /// Ends the process without a word and opens the log again.
    Restart,
    /// Pulls the plug and opens the log again. Example: crash 5
    Crash(u64),
    /// Lets disk operations fail: all, writes or syncs, after so many more. Example: fail syncs 1
    Fail { what: String, after: u64 },
    /// Limits the disk's space to so many more bytes. Example: space 100
    Space(u64),
    /// Lists the files.
    Files,
    /// Changes a byte of a file. Example: flip 00000000000000000000-0000000001.seg 100
    Flip { file: String, offset: usize },
    /// Opens the log.
    Open,
}

#[derive(Default)]
struct Runner {
    disk: SimDisk,
    log: Option<Log>,
    job: Option<FlushJob>,
}

type Output = Result<String, Box<dyn Error>>;

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &goldenscript::Context) -> Output {
        if let Command::Open = command {
            return self.open();
        }
        let log = self.log.clone().ok_or("the log is not open")?;
        match command {
            Command::Append {
                term,
                payload_bytes,
            } => {
                let next = log.last_id().map_or(0, |id| id.index + 1);
                let frames: Vec<_> = payload_bytes
                    .iter()
                    .zip(next..)
                    .map(|(bytes, index)| frame(*term, index, *bytes))
                    .collect();
                Ok(format!("{:?}", log.append(&frames)?))
            }
            Command::Cut { keep } => Ok(format!("{:?}", log.truncate_after(*keep)?)),
            Command::Vote(text) => Ok(format!("{:?}", log.save_hard_state(text.clone().into())?)),
            Command::Reset { term, index, chain } => {
                let base = Base {
                    last: Some(LogId::new(*term, *index)),
                    chain: Chain(*chain),
                };
                Ok(format!("{:?}", log.reset(base)?))
            }
            Command::Purge(upto) => {
                let id = log.id_at(*upto)?.ok_or("no such entry")?;
                Ok(format!("{:?}", log.purge(id)?))
            }
            Command::Release(upto) => Ok(format!("{:?}", log.release(*upto)?)),
            Command::Take => {
                self.job = Some(
                    log.next_flush()
                        .ok_or("nothing to flush, or a flush is in flight")?,
                );
                Ok(String::new())
            }
            Command::Flush => self.flush(&log),
            Command::Read { from, to, bytes } => {
                let frames = log.read(*from, *to, bytes.unwrap_or(usize::MAX))?;
                Ok(format!(
                    "{frames:?} {}",
                    if log.is_cached(*from) {
                        "from the cache"
                    } else {
                        "from disk"
                    }
                ))
            }
            Command::Status => Ok(self.status(&log)),
            Command::Restart => {
                self.log = None;
                self.open()
            }
            Command::Crash(seed) => {
                self.disk.crash(*seed);
                self.open()
            }
            Command::Fail { what, after } => {
                match what.as_str() {
                    "all" => self.disk.fail_all_after(*after),
                    "writes" => self.disk.fail_writes_after(*after),
                    "syncs" => self.disk.fail_syncs_after(*after),
                    other => return Err(format!("cannot fail {other}").into()),
                }
                Ok(String::new())
            }
            Command::Space(bytes) => {
                self.disk.set_capacity(Some(self.disk.used_bytes() + bytes));
                Ok(String::new())
            }
            Command::Files => {
                let mut files = self.disk.list(Path::new(DIR))?;
                files.sort();
                Ok(files.join("\n"))
            }
            Command::Flip { file, offset } => {
                self.disk
                    .edit(&Path::new(DIR).join(file), |bytes| bytes[*offset] ^= 1);
                Ok(String::new())
            }
            Command::Open => unreachable!("handled above"),
        }
    }
}

impl Runner {
    fn open(&mut self) -> Output {
        self.disk.start_trace();
        let opened = open(&self.disk, SMALL);
        let mut output = self.trace();
        let (log, recovered) = opened.map_err(|error| format!("{output}{error}"))?;
        let last = recovered
            .last
            .map_or("none".to_string(), |id| id.to_string());
        write!(
            output,
            "opened: last {last}, {} torn bytes",
            recovered.torn_bytes
        )?;
        self.log = Some(log);
        Ok(output)
    }

    fn flush(&mut self, log: &Log) -> Output {
        let job = self
            .job
            .take()
            .or_else(|| log.next_flush())
            .ok_or("nothing to flush")?;
        let done = job.run();
        let mut output = self.trace();
        let ticket = log
            .flushed(done)
            .map_err(|error| format!("{output}{error}"))?;
        write!(
            output,
            "durable: {ticket:?}, index {:?}",
            log.durable_index()
        )?;
        Ok(output)
    }

    fn trace(&self) -> String {
        self.disk
            .take_trace()
            .iter()
            .fold(String::new(), |text, line| text + "  " + line + "\n")
    }

    fn status(&self, log: &Log) -> String {
        let id = |id: Option<LogId>| id.map_or("none".to_string(), |id| id.to_string());
        let hard_state = log.hard_state().map_or("none".into(), |bytes| {
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let (last, purged, stats) = (id(log.last_id()), id(log.purged()), log.stats());
        format!(
            "first {} last {last} purged {purged} durable {:?} hard state {hard_state}\n{} segments of {} bytes, chain {}",
            log.first_index(),
            log.durable_index(),
            stats.segments,
            stats.disk_bytes,
            log.last_chain(),
        )
    }
}

#[test]
fn scripts() -> std::io::Result<()> {
    let mut count = 0;
    for entry in std::fs::read_dir("tests/scripts")? {
        goldenscript::run(&mut Runner::default(), entry?.path())?;
        count += 1;
    }
    assert!(count >= 7, "the scripts are there");
    Ok(())
}
