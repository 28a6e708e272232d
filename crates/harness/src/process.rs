//! Child processes for tests: a server that is killed when its test ends, ports that nobody uses, and waiting without sleeping blindly.

use std::fs::{self, File};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Nothing takes this long unless it hangs; generous, since builds may be unoptimised and machines busy.
pub const HANG: Duration = Duration::from_secs(120);

/// How often a condition is looked at.
pub const POLL: Duration = Duration::from_millis(20);

/// How many lines of a log are shown when a test fails.
const SHOWN_LINES: usize = 30;

/// A running server. Dropping it kills it.
pub struct Server {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Server {
    /// Starts `command`; what it prints goes to the end of `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Server {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("open the log of a server");
        let child = command
            .env_remove("EAVES_LOG")
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("share the log of a server"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Server {
            name: name.to_owned(),
            log: log.to_owned(),
            child,
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, by the name that `kill -s` takes.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success(), "send {name} to {}", self.name);
    }

    /// Ends it by SIGKILL: nothing is flushed, nobody is told.
    pub fn kill(mut self) {
        assert_eq!(
            self.ended(),
            None,
            "{} ended by itself: {}",
            self.name,
            self.log_tail()
        );
        self.child.kill().expect("kill our own child");
        let status = self.child.wait().expect("wait for our own child");
        assert_eq!(status.signal(), Some(9), "{}: {status}", self.name);
    }

    /// Asks it to stop, and waits until it has: exit status 0.
    pub async fn stop(mut self) {
        self.signal("TERM");
        let status = self.wait().await;
        assert!(status.success(), "{status}: {}", self.log_tail());
    }

    /// Waits until it ends.
    pub async fn wait(&mut self) -> ExitStatus {
        let what = format!("{} ends", self.name);
        eventually(&what, async || self.ended()).await
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("ask for our own child")
    }

    /// Fails the test if it has ended.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.ended() {
            panic!("{} ended ({status}): {}", self.name, self.log_tail());
        }
    }

    /// The end of what it printed.
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has already ended needs neither.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of a log, to be shown.
pub fn log_tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    format!("{} ends\n{}", log.display(), shown.join("\n"))
}

/// From now on a panic kills what this process has started. In a release build it ends the process at once, without dropping anything:
/// servers would live on.
pub fn kill_children_in_panics() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        for child in children() {
            // It may have ended by itself.
            let _ = Command::new("kill")
                .args(["-s", "KILL", &child.to_string()])
                .status();
        }
    }));
}

/// The processes that this one has started and not waited for yet.
pub fn children() -> Vec<u32> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten();
    let lists = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let numbers = |list: String| -> Vec<u32> {
        list.split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect()
    };
    lists.flat_map(numbers).collect()
}

/// Ports below those that systems give to outgoing connections: a server that is started again must find its port free.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// Ports that are free now, and that no other test of this process gets.
pub fn free_ports(count: usize) -> Vec<u16> {
    std::iter::repeat_with(|| next_ports(1))
        .filter(are_free)
        .flatten()
        .take(count)
        .collect()
}

/// The first of `count` ports in a row that are free now, and that no other test of this process gets.
pub fn free_port_range(count: u16) -> u16 {
    std::iter::repeat_with(|| next_ports(count))
        .find(are_free)
        .expect("the search ends only with a panic")
        .start
}

/// The next ports in a row that nobody here has got. Processes that run at the same time begin at different places.
fn next_ports(count: u16) -> std::ops::Range<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let places = PORTS.end - PORTS.start;
    let number = NEXT.fetch_add(count, Ordering::Relaxed);
    assert!(number < places, "no port is free from {PORTS:?}");
    let begin = (std::process::id() % 199) as u16 * 100;
    let start = PORTS.start + (begin + number) % places;
    start..start + count
}

fn are_free(ports: &std::ops::Range<u16>) -> bool {
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    ports.clone().all(is_free)
}

/// The body of an HTTP page. Asked for by HTTP/1.0, whose bodies come in one piece: etcd cuts those of 1.1 anywhere, even in the midst of the
/// line that says who leads.
pub fn page(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(HANG))?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let response = std::io::read_to_string(stream)?;
    match response.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        _ => Err(std::io::Error::other(format!(
            "the answer to {path} is {response:?}"
        ))),
    }
}

/// Waits until `attempt` gives a value; `what` says what is waited for.
pub async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + HANG;
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: not within {} s",
            HANG.as_secs()
        );
        tokio::time::sleep(POLL).await;
    }
}
