//! The tree at scale: the shape and the times of a tree of up to hundreds of thousands of listeners, in virtual time.
//!
//! One *course* takes one tree, at one round trip time, through its life:
//!
//! 1. all listeners start within [`START_SPREAD`], each knowing the same one voter (`B4`, `B19`);
//! 2. some minutes of quiet, in which listeners look for better places (`B7`);
//! 3. leadership passes to a voter that feeds listeners, and the old leader lives on (`S10`);
//! 4. the leader's machine is lost, another voter becomes leader;
//! 5. a tenth of the inner listeners are killed at once (`S13`, `B3`), so their connections close;
//! 6. after some quiet again, a tenth of the inner listeners are lost with their machines, so that nobody hears of it.
//!
//! For each step: how long listeners were cut off, what it cost to find an upstream, and how deep the tree is then. The
//! invariants are checked all the while, and one that does not hold ends the course.
//!
//! What is modelled: the protocol as it is, one-way delays that differ by up to half between pairs, one round trip to connect,
//! and the time a node works on a question, during which others wait, for at most
//! [`QUESTION_WAIT_MAX`](eaves_tree::QUESTION_WAIT_MAX). What is not: processors shared by many nodes, bandwidth, limits
//! on connections, and the time to register. No entries flow but the group's own, so catching up costs nothing here.

mod course;
mod report;

use clap::Args;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use course::{Course, Row};
pub use report::Report;

/// All listeners start within this time.
pub const START_SPREAD: crate::engine::Micros = 100 * crate::engine::MILLISECOND;

/// Takes large trees through cold start, leader changes and losses, and prints how deep they are and how long listeners were
/// cut off, in virtual time
#[derive(Args, Clone, Debug)]
pub struct Scale {
    /// How many listeners; several numbers give a curve
    #[arg(long, value_delimiter = ',', default_value = "100000", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    listeners: Vec<u32>,
    /// How many listeners one node accepts (N)
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    capacity: u32,
    /// How many voters; one of them leads and feeds nobody
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=9))]
    voters: u32,
    /// The round trip time in milliseconds, on average; several numbers give several courses
    #[arg(long, value_delimiter = ',', default_value = "10,100", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    round_trip_ms: Vec<u64>,
    /// How many microseconds a node works on a question
    #[arg(long, default_value_t = 10)]
    question_us: u64,
    /// How many seconds of quiet follow the cold start and each loss
    #[arg(long, default_value_t = 100)]
    quiet_s: u64,
    /// Where all random numbers come from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Scale {
    /// Runs the courses, as many at a time as there are processors, and prints what they found. Exit status 0 if every
    /// invariant held and every listener was fed in the end.
    pub fn run(&self) -> ExitCode {
        let courses = self.courses();
        let next = AtomicUsize::new(0);
        let reports = Mutex::new(Vec::new());
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..workers.min(courses.len()) {
                scope.spawn(|| {
                    while let Some(course) = courses.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let report = course.run(&|line| eprintln!("{course}: {line}"));
                        reports.lock().expect("no worker panics").push(report);
                    }
                });
            }
        });
        let mut reports = reports.into_inner().expect("no worker panics");
        reports.sort_by_key(|report| (report.course.listeners, report.course.round_trip));
        report::print(&reports);
        match reports.iter().all(Report::holds) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }

    /// The largest first, so that the processors are busy to the end.
    fn courses(&self) -> Vec<Course> {
        let mut courses: Vec<Course> = self
            .listeners
            .iter()
            .flat_map(|&listeners| {
                self.round_trip_ms.iter().map(move |&round_trip_ms| Course {
                    listeners,
                    capacity: self.capacity,
                    voters: self.voters,
                    round_trip: round_trip_ms * crate::engine::MILLISECOND,
                    question_cost: self.question_us,
                    quiet: self.quiet_s * crate::engine::SECOND,
                    seed: self.seed,
                })
            })
            .collect();
        courses.sort_by_key(|course| std::cmp::Reverse(course.listeners));
        courses
    }
}

#[cfg(test)]
mod tests;
