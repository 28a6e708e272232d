//! What the kernel says about processes, in `/proc`: processor time, memory, bytes through their files and sockets. And about the whole
//! machine, so that the work of strangers shows.
//!
//! A process has a clock of its own, which tells what it has used of processors to the nanosecond. `/proc/PID/stat` tells the same in ticks
//! of 10 ms, which is most of what a server does in a second at a small load. Of the whole machine there are ticks only.

use eaves_server::failure::{Failure, Outcome};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::fs;
use std::time::{Duration, Instant};

/// Processor time of a process so far, user and system, its ended threads included.
pub fn cpu_seconds(process: u32) -> Outcome<f64> {
    let time = i32::try_from(process)
        .map_err(|error| error.to_string())
        .and_then(|process| {
            let clock = clock_getcpuclockid(Pid::from_raw(process));
            let time = clock.and_then(clock_gettime);
            time.map_err(|error| error.to_string())
        });
    let time = time.map_err(|error| {
        Failure::failed(format!(
            "cannot read the processor time of process {process}: {error}; has it ended?"
        ))
    })?;
    Ok(Duration::from(time).as_secs_f64())
}

/// Memory of a process that is in RAM, shared pages included.
pub fn resident_bytes(process: u32) -> Outcome<u64> {
    let text = read(&format!("/proc/{process}/status"))?;
    kibibytes(&text, "VmRSS:").ok_or_else(|| strange(process, "status"))
}

/// The most of it since the process began, or since [`forget_peak`].
pub fn peak_bytes(process: u32) -> Outcome<u64> {
    let text = read(&format!("/proc/{process}/status"))?;
    kibibytes(&text, "VmHWM:").ok_or_else(|| strange(process, "status"))
}

/// From now on [`peak_bytes`] counts anew: what proc(5) says of 5 in `clear_refs`.
pub fn forget_peak(process: u32) -> Outcome {
    let path = format!("/proc/{process}/clear_refs");
    fs::write(&path, "5").map_err(|error| Failure::failed(format!("cannot write {path}: {error}")))
}

/// Bytes that a process has sent over the TCP connections that it has, but those of the port `not` on its side: what `ss` says. Nothing
/// without `ss`, which is in Debian's iproute2.
pub fn sent_bytes(process: u32, not: u16) -> Option<u64> {
    let output = std::process::Command::new("ss")
        .args(["-tinpH"])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(|| sent(&text, process, not))
}

/// Reads the processor time of several processes before and after something.
pub struct Meter {
    processes: Vec<u32>,
    before: Reading,
    began: Instant,
}

struct Reading {
    each: Vec<f64>,
    own: f64,
    machine: f64,
}

/// What a [`Meter`] has seen.
pub struct Used {
    /// Seconds of each process, in the order given.
    pub each: Vec<f64>,
    /// Seconds of this process.
    pub own: f64,
    /// Processors that were kept busy on average by nobody of these, the hypervisor's other guests included.
    pub others: f64,
    /// The time between the readings.
    pub elapsed: Duration,
}

impl Meter {
    /// Begins.
    pub fn start(processes: Vec<u32>) -> Outcome<Meter> {
        let before = Reading::take(&processes)?;
        Ok(Meter {
            processes,
            before,
            began: Instant::now(),
        })
    }

    /// Ends.
    pub fn end(self) -> Outcome<Used> {
        let elapsed = self.began.elapsed();
        let after = Reading::take(&self.processes)?;
        let pairs = after.each.iter().zip(&self.before.each);
        let each: Vec<f64> = pairs.map(|(after, before)| after - before).collect();
        let own = after.own - self.before.own;
        let known = each.iter().sum::<f64>() + own;
        let others = (after.machine - self.before.machine - known).max(0.0);
        Ok(Used {
            each,
            own,
            others: others / elapsed.as_secs_f64(),
            elapsed,
        })
    }
}

impl Used {
    /// Seconds of all the processes together.
    pub fn total(&self) -> f64 {
        self.each.iter().sum()
    }
}

impl Reading {
    fn take(processes: &[u32]) -> Outcome<Reading> {
        let each = processes.iter().map(|process| cpu_seconds(*process));
        let machine = busy_ticks(&read("/proc/stat")?)
            .ok_or_else(|| Failure::failed("/proc/stat is not as expected"))?;
        Ok(Reading {
            each: each.collect::<Outcome<_>>()?,
            own: cpu_seconds(std::process::id())?,
            machine: seconds(machine),
        })
    }
}

fn read(path: &str) -> Outcome<String> {
    fs::read_to_string(path).map_err(|error| {
        Failure::failed(format!(
            "cannot read {path}: {error}; has the process ended?"
        ))
    })
}

fn strange(process: u32, file: &str) -> Failure {
    Failure::failed(format!("/proc/{process}/{file} is not as expected"))
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Time of all processors that was not idle: of `cpu user nice system idle iowait irq softirq steal ..` all but the fourth and fifth, and
/// without those after `steal`, which are in `user` already.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .take(8)
        .map(|word| word.parse().ok())
        .collect::<Option<_>>()?;
    (fields.len() == 8).then(|| fields.iter().sum::<u64>() - fields[3] - fields[4])
}

/// Of each connection there is a line with addresses and owner, and then one with counts.
fn sent(text: &str, process: u32, not: u16) -> u64 {
    let mut ours = false;
    let mut sum = 0;
    for line in text.lines() {
        if !line.starts_with([' ', '\t']) {
            let local = line.split_whitespace().nth(3).unwrap_or_default();
            ours =
                line.contains(&format!("pid={process},")) && !local.ends_with(&format!(":{not}"));
        }
        if ours && let Some((_, rest)) = line.split_once(" bytes_sent:") {
            let digits = rest.split_whitespace().next().unwrap_or_default();
            sum += digits.parse().unwrap_or(0);
        }
    }
    sum
}

fn kibibytes(status: &str, name: &str) -> Option<u64> {
    Some(number_after(status, name)? * 1024)
}

/// The number that follows `name` at the start of a line.
fn number_after(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_all_but_idle_and_waiting_for_the_disk() {
        let stat = "cpu  10 20 30 1000 500 1 2 4 7 7\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(67));
        assert_eq!(busy_ticks("cpu  1 2 3"), None);
        assert_eq!(busy_ticks("intr 1"), None);
    }

    #[test]
    fn bytes_sent_are_those_of_the_process_and_not_of_the_port() {
        let text = "ESTAB 0 0 127.0.0.1:100 127.0.0.1:9 users:((\"eaves\",pid=7,fd=3))\n\t cubic bytes_sent:5 bytes_acked:6\n\
                    ESTAB 0 0 127.0.0.1:200 127.0.0.1:9 users:((\"eaves\",pid=7,fd=4))\n\t cubic bytes_sent:70 x\n\
                    ESTAB 0 0 127.0.0.1:300 127.0.0.1:9 users:((\"eaves\",pid=77,fd=4))\n\t cubic bytes_sent:900\n";
        assert_eq!(sent(text, 7, 200), 5);
        assert_eq!(sent(text, 7, 1), 75);
        assert_eq!(sent("", 7, 1), 0);
    }

    #[test]
    fn numbers_follow_their_names() {
        let status = "Name:\teaves\nVmRSS:\t    2048 kB\nwchar: 77\n";
        assert_eq!(kibibytes(status, "VmRSS:"), Some(2 << 20));
        assert_eq!(number_after(status, "wchar:"), Some(77));
        assert_eq!(number_after(status, "rchar:"), None);
        assert_eq!(number_after("wchar:", "wchar:"), None);
    }

    #[test]
    fn the_kernel_tells_about_this_process() {
        let own = std::process::id();
        assert!(resident_bytes(own).unwrap() > 100_000);
        let before = cpu_seconds(own).unwrap();
        while cpu_seconds(own).unwrap() == before {}
        forget_peak(own).unwrap();
        assert!(peak_bytes(own).unwrap() > 100_000);
        let used = Meter::start(vec![own]).unwrap().end().unwrap();
        assert_eq!(used.each.len(), 1);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error_that_names_it() {
        // The kernel gives no process this number, or a higher one.
        for process in [u32::MAX, 1 << 22] {
            let error = cpu_seconds(process).unwrap_err().to_string();
            let expected = format!("cannot read the processor time of process {process}: ");
            assert!(error.starts_with(&expected), "{error}");
        }
        let error = peak_bytes(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("/proc/4294967295/status"), "{error}");
    }
}
