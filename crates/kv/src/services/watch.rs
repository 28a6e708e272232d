//! The Watch service: moves requests and responses of one stream between gRPC, the session and the store's watch hub.
//!
//! A stream is driven by whoever sends its responses: when a client stops reading, HTTP/2 flow control stops the sending, nothing here
//! is polled any more, and the hub leaves the watchers behind until the client reads again. So a slow client costs bounded memory and is
//! never cut off for being slow, only told when compaction overtook it.

use super::{
    ServiceOptions,
    errors::name_oversized,
    leader::{leaderless, needs_leader},
    replica::Replica,
    validate::MAX_MESSAGE_BYTES,
    watch_session::{Order, Session},
};
use crate::{
    proto::etcdserverpb::{ResponseHeader, WatchRequest, WatchResponse, watch_server::Watch},
    store::{KvError, WatchEvents, WatchHandle},
};
use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};
use tonic::{Request, Response, Status, Streaming};

pub(crate) struct WatchService {
    replica: Replica,
    progress_interval: Duration,
    leaderless_timeout: Duration,
    stopped: watch::Receiver<bool>,
    /// Streams opened so far.
    streams: AtomicU32,
}

impl WatchService {
    /// A service whose streams end when `stopped` turns true.
    pub fn new(replica: Replica, options: &ServiceOptions, stopped: watch::Receiver<bool>) -> Self {
        let progress_interval = options.progress_interval.max(super::MIN_PROGRESS_INTERVAL);
        Self {
            replica,
            progress_interval,
            leaderless_timeout: options.leaderless_timeout,
            stopped,
            streams: AtomicU32::new(0),
        }
    }

    /// Resolves when a stream must end, whatever its client does, with what the client is told.
    fn end(&self, needs_leader: bool) -> BoxFuture<'static, KvError> {
        let mut stopped = self.stopped.clone();
        let status = self.replica.status.clone();
        let timeout = self.leaderless_timeout;
        Box::pin(async move {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => KvError::Stopped,
                error = leaderless(status, timeout), if needs_leader => error,
            }
        })
    }

    /// The stream's progress ticks, a little slower from one stream to the next so that they do not beat together.
    fn ticks(&self) -> Interval {
        let lengthened_permille = self.streams.fetch_add(1, Ordering::Relaxed) % 100;
        let period = self.progress_interval + self.progress_interval / 1000 * lengthened_permille;
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }
}

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = BoxStream<'static, Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let end = self.end(needs_leader(request.metadata().as_ref()));
        let (handle, items) = self.replica.store.watch_hub().open_stream();
        let replica = self.replica.clone();
        let stream = WatchStream {
            requests: Some(request.into_inner()),
            handle,
            items,
            session: Session::new(
                Box::new(move |revision| replica.header_at(revision)),
                MAX_MESSAGE_BYTES,
            ),
            ready: VecDeque::new(),
            ticks: self.ticks(),
            end,
        };
        let responses = stream::unfold(Some(stream), |stream| async {
            let mut stream = stream?;
            match stream.next().await {
                Ok(response) => Some((Ok(response), Some(stream))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(responses.fuse().boxed()))
    }
}

type Header = Box<dyn Fn(i64) -> ResponseHeader + Send>;

struct WatchStream {
    /// `None` once the client has sent all its requests; its watchers go on.
    requests: Option<Streaming<WatchRequest>>,
    handle: WatchHandle,
    items: WatchEvents,
    session: Session<Header>,
    /// Responses made and not yet taken: at most those of one item.
    ready: VecDeque<WatchResponse>,
    ticks: Interval,
    end: BoxFuture<'static, KvError>,
}

impl WatchStream {
    /// The next response, or why the stream ends.
    async fn next(&mut self) -> Result<WatchResponse, Status> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                return Ok(response);
            }
            tokio::select! {
                error = &mut self.end => return Err(error.into()),
                item = self.items.recv() => {
                    self.ready.extend(self.session.handle_item(item?));
                }
                request = next_request(&mut self.requests, &self.handle) => self.handle_request(request?),
                _ = self.ticks.tick() => self.report_progress(),
            }
        }
    }

    fn handle_request(&mut self, request: Option<WatchRequest>) {
        let Some(request) = request else {
            self.requests = None;
            return;
        };
        match self.session.handle_request(request) {
            Some(Order::Watch(spec)) => self.handle.watch(spec),
            Some(Order::Cancel(watch_id)) => self.handle.cancel(watch_id),
            Some(Order::Progress) => self.handle.progress(),
            None => {}
        }
    }

    fn report_progress(&mut self) {
        for watch_id in self.session.handle_tick() {
            self.handle.progress_of(watch_id);
        }
    }
}

/// The client's next request, once the hub has room for its answer; `None` when there are no more. Safe to drop while it waits.
async fn next_request(
    requests: &mut Option<Streaming<WatchRequest>>,
    handle: &WatchHandle,
) -> Result<Option<WatchRequest>, Status> {
    let Some(requests) = requests else {
        return std::future::pending().await;
    };
    handle.room().await;
    requests
        .message()
        .await
        .map_err(|status| name_oversized(status, MAX_MESSAGE_BYTES))
}
