//! A bound on bytes per second, shared by all who send (B9, B10).

use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Lets bytes through at a rate, in the order in which they were announced.
pub(crate) struct Throttle {
    /// 0: no bound.
    bytes_per_second: u64,
    /// When the next bytes may go.
    free_at: Mutex<Option<Instant>>,
}

impl Throttle {
    pub fn new(bytes_per_second: u64) -> Throttle {
        Throttle {
            bytes_per_second,
            free_at: Mutex::default(),
        }
    }

    /// Returns when `bytes` may be sent. Who gives up waiting has used its share all the same.
    pub async fn pass(&self, bytes: u64) {
        if self.bytes_per_second == 0 {
            return;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let turn = {
            let mut free_at = self.free_at.lock().unwrap();
            let now = Instant::now();
            let turn = free_at.map_or(now, |at| at.max(now));
            *free_at = Some(turn + cost);
            turn
        };
        tokio::time::sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// Virtual time: the clock moves only when everybody waits.
    #[tokio::test(start_paused = true)]
    async fn all_together_send_at_the_rate_and_each_gets_its_share() {
        let throttle = Arc::new(Throttle::new(1000));
        let begin = Instant::now();
        let senders: Vec<_> = (0..4)
            .map(|_| {
                let throttle = throttle.clone();
                tokio::spawn(async move {
                    for _ in 0..25 {
                        throttle.pass(100).await;
                    }
                    begin.elapsed()
                })
            })
            .collect();
        let mut ends = Vec::new();
        for sender in senders {
            ends.push(sender.await.unwrap());
        }
        // 10,000 bytes at 1,000 bytes per second; the last piece goes when its turn begins.
        assert_eq!(
            ends.iter().max().unwrap().as_secs_f64().round(),
            10.0,
            "{ends:?}"
        );
        assert!(
            ends.iter().all(|end| *end >= Duration::from_secs(9)),
            "nobody is served before the others: {ends:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_earns_nothing_and_no_rate_is_no_bound() {
        let throttle = Throttle::new(1000);
        throttle.pass(1000).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let begin = Instant::now();
        for _ in 0..3 {
            throttle.pass(1000).await;
        }
        assert_eq!(begin.elapsed().as_secs(), 2);
        let (unbound, begin) = (Throttle::new(0), Instant::now());
        unbound.pass(u64::MAX).await;
        assert!(begin.elapsed().is_zero());
    }
}
