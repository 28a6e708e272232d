//! One node as a child process.
//!
//! A child ends when its standard input does (`--stop-with-stdin`). That is how it is asked to stop, and also why it never outlives us:
//! the kernel closes our end of the pipe however we end, SIGKILL included.

use crate::failure::{Failure, Outcome};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child as Process, ChildStdin, Command};
use tokio::time::timeout;

/// How long a child may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How much of the end of a log is searched for its last line.
const LOG_TAIL_BYTES: u64 = 16 * 1024;
/// A log longer than this is set aside at the next start.
const LOG_ROTATE_BYTES: u64 = 16 * 1024 * 1024;

/// A running child.
pub struct Child {
    process: Process,
    /// Open as long as the child shall run.
    stdin: Option<ChildStdin>,
}

impl Child {
    /// Starts `executable` with `arguments` in a process group of its own, so that a Ctrl-C in the terminal reaches only us. Its output
    /// goes to the end of `log`.
    pub fn start(executable: &Path, arguments: &[String], log: &Path) -> Outcome<Child> {
        let file = open_log(log)?;
        let errors = file.try_clone().map_err(|error| log_failure(log, &error))?;
        let mut process = Command::new(executable)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(file)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                Failure::failed(format!(
                    "cannot start {}: {error}; run it by hand to see more",
                    executable.display()
                ))
            })?;
        let stdin = process.stdin.take();
        Ok(Child { process, stdin })
    }

    /// Waits until the child ends by itself.
    pub async fn ended(&mut self) -> Option<ExitStatus> {
        self.process.wait().await.ok()
    }

    /// Asks the child to stop and waits until it has. Returns whether it had to be killed.
    pub async fn stop(&mut self) -> bool {
        self.stdin = None;
        if timeout(STOP_TIMEOUT, self.process.wait()).await.is_ok() {
            return false;
        }
        // Fails only when it ended this very moment.
        let _ = self.process.kill().await;
        true
    }
}

/// The last line of a log that says something, if there is one.
pub fn last_line(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))
        .ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    tail.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .map(str::to_string)
}

fn open_log(log: &Path) -> Outcome<File> {
    if let Some(directory) = log.parent() {
        fs::create_dir_all(directory).map_err(|error| log_failure(log, &error))?;
    }
    if fs::metadata(log).is_ok_and(|metadata| metadata.len() > LOG_ROTATE_BYTES) {
        fs::rename(log, set_aside(log)).map_err(|error| log_failure(log, &error))?;
    }
    File::options()
        .create(true)
        .append(true)
        .open(log)
        .map_err(|error| log_failure(log, &error))
}

fn set_aside(log: &Path) -> PathBuf {
    log.with_extension("old.txt")
}

fn log_failure(log: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!(
        "cannot write {}: {error}; give another --data-dir",
        log.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, log: &Path) -> Child {
        Child::start(
            Path::new("/bin/sh"),
            &["-c".to_string(), script.to_string()],
            log,
        )
        .unwrap()
    }

    #[tokio::test]
    async fn a_child_ends_with_its_standard_input() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("n").join("log.txt");
        let mut child = shell("cat; echo stopping", &log);
        assert!(!child.stop().await);
        assert_eq!(last_line(&log).as_deref(), Some("stopping"));
    }

    #[tokio::test]
    async fn what_a_dying_child_says_is_found() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log.txt");
        let mut child = shell("echo one; echo two >&2; echo; exit 3", &log);
        assert_eq!(
            child.ended().await.and_then(|status| status.code()),
            Some(3)
        );
        assert_eq!(last_line(&log).as_deref(), Some("two"));
    }

    #[test]
    fn a_long_log_is_set_aside() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log.txt");
        let file = File::create(&log).unwrap();
        file.set_len(LOG_ROTATE_BYTES + 1).unwrap();
        assert_eq!(open_log(&log).unwrap().metadata().unwrap().len(), 0);
        assert!(set_aside(&log).exists());
    }
}
