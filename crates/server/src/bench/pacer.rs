//! Moments at which requests are due, kept more finely than the runtime's timer, which knows only whole milliseconds.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// The pacing thread sleeps at least this long: below, its wake-ups would cost more than they are worth.
const SHORTEST_SLEEP: Duration = Duration::from_micros(100);

/// When request `number` is due, counted from the start.
pub fn due(number: u64, rate: u64) -> Duration {
    let nanoseconds = u128::from(number) * 1_000_000_000 / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

/// Releases a permit for each of `total` requests when it is due. The thread ends after the last, or when the semaphore is closed.
pub fn start(start: Instant, rate: u64, total: u64) -> Arc<Semaphore> {
    let permits = Arc::new(Semaphore::new(0));
    let theirs = permits.clone();
    thread::spawn(move || {
        let mut released = 0;
        while released < total && !theirs.is_closed() {
            let elapsed = start.elapsed();
            let due_now = due_by(elapsed, rate).min(total);
            if due_now > released {
                theirs.add_permits((due_now - released) as usize);
                released = due_now;
            }
            thread::sleep(
                due(released, rate)
                    .saturating_sub(start.elapsed())
                    .clamp(SHORTEST_SLEEP, Duration::from_secs(1)),
            );
        }
    });
    permits
}

/// How many requests are due once `elapsed` has passed: those numbered below the result.
fn due_by(elapsed: Duration, rate: u64) -> u64 {
    let number = elapsed.as_nanos() * u128::from(rate) / 1_000_000_000;
    u64::try_from(number).unwrap_or(u64::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_due_as_have_had_their_moment() {
        for rate in [1, 3, 7_000, 1_000_000] {
            for number in [0, 1, 2, 999, 123_457] {
                let moment = due(number, rate);
                // `due` rounds down by less than a nanosecond, so a nanosecond later it has surely come.
                assert!(due_by(moment + Duration::from_nanos(1), rate) > number);
                assert!(due_by(moment.saturating_sub(Duration::from_nanos(1)), rate) <= number + 1);
            }
        }
    }

    #[tokio::test]
    async fn every_request_gets_its_permit() {
        let permits = start(Instant::now(), 100_000, 500);
        for _ in 0..500 {
            permits.acquire().await.unwrap().forget();
        }
        assert_eq!(permits.available_permits(), 0);
    }
}
