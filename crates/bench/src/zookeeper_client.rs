//! As much of ZooKeeper's protocol as is measured: a session, znodes that are made and written, a watch that stays.
//!
//! A packet is a length and bytes; numbers are big-endian, texts and values have their length before them (ZooKeeper calls it jute). Each
//! request begins with a number of its own and its kind, each answer with that number, the transaction and an error code. Answers come in
//! the order of the requests, events between them with the number -1.

use crate::watchers::Seen;
use eaves_server::address::Address;
use eaves_server::failure::{Failure, Outcome};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

/// Longer than any measurement, so that nothing has to be said to keep a session; servers make less of it (20 ticks).
const SESSION_TIMEOUT_MS: i32 = 600_000;
/// No packet of a server that is measured is longer.
const MAX_PACKET_BYTES: usize = 1 << 20;

const CREATE: i32 = 1;
const SET_DATA: i32 = 5;
const ADD_WATCH: i32 = 106;
/// The number of the last of many writes.
const LAST: i32 = i32::MAX;
/// The number of an event.
const EVENT: i32 = -1;
/// All permissions, for `world:anyone`.
const ALL: i32 = 31;

/// A connection with a session.
pub struct Session {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    server: String,
    next: i32,
}

/// How writes are sent that do not wait for one another.
pub struct Pipeline {
    /// So many are under way at most.
    pub window: usize,
    /// Between two of them; none: as soon as the window has room.
    pub pace: Option<Duration>,
    /// No new one is sent after this time.
    pub time: Duration,
}

impl Session {
    /// Connects and opens a session.
    pub async fn connect(server: &Address) -> Outcome<Session> {
        let connected = TcpStream::connect((server.host(), server.port())).await;
        let failed =
            |error: io::Error| Failure::failed(format!("cannot connect to {server}: {error}"));
        let stream = connected.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let (reader, writer) = stream.into_split();
        let mut session = Session {
            reader: BufReader::new(reader),
            writer,
            server: server.to_string(),
            next: 1,
        };
        let hello = Packet::default()
            .int(0)
            .long(0)
            .int(SESSION_TIMEOUT_MS)
            .long(0)
            .bytes(&[0; 16]);
        session.send(hello).await?;
        session.receive().await?;
        Ok(session)
    }

    /// Makes a znode.
    pub async fn create(&mut self, path: &str, value: &[u8]) -> Outcome {
        let acl = |packet: Packet| packet.int(1).int(ALL).text("world").text("anyone");
        let request = self.request(CREATE).text(path).bytes(value);
        self.ask(acl(request).int(0)).await
    }

    /// Writes a znode, whatever its version.
    pub async fn write(&mut self, path: &str, value: &[u8]) -> Outcome {
        let request = self.request(SET_DATA).text(path).bytes(value).int(-1);
        self.ask(request).await
    }

    /// Watches a znode: every change is an event, and the first of them number 1. Tells them to `seen` until the connection ends.
    pub async fn watch(mut self, path: &str) -> Outcome<(Seen, impl Future<Output = ()> + Send)> {
        let request = self.request(ADD_WATCH).text(path).int(0);
        self.ask(request).await?;
        let seen = Seen::default();
        let theirs = seen.clone();
        let watching = async move {
            let mut number = 0;
            while let Ok(packet) = self.receive().await {
                if int_at(&packet, 0) == Some(EVENT) {
                    let now = Instant::now();
                    number += 1;
                    let mut seen = theirs.lock().expect("nobody panics with it");
                    seen.push((number, now));
                }
            }
        };
        Ok((seen, watching))
    }

    /// Writes znodes without waiting for each; tells how many the server has written.
    pub async fn write_all(
        self,
        pipeline: Pipeline,
        mut next: impl FnMut() -> (String, Vec<u8>) + Send,
    ) -> Outcome<u64> {
        let room = Arc::new(Semaphore::new(pipeline.window));
        let (mut reader, server, freed) = (self.reader, self.server, room.clone());
        let answers = async move {
            let mut written = 0;
            loop {
                let answer = receive(&mut reader).await;
                let number = answer.as_ref().ok().and_then(|answer| int_at(answer, 0));
                check(&server, answer)?;
                written += 1;
                freed.add_permits(1);
                if number == Some(LAST) {
                    return Ok(written);
                }
            }
        };
        let began = Instant::now();
        let mut writer = self.writer;
        let requests = async move {
            let mut pace = pipeline.pace.map(tokio::time::interval);
            if let Some(pace) = &mut pace {
                pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
            }
            let mut number = self.next;
            while number != LAST {
                if let Some(pace) = &mut pace {
                    pace.tick().await;
                }
                room.acquire().await.expect("nobody closes it").forget();
                number = match began.elapsed() < pipeline.time {
                    true => number + 1,
                    false => LAST,
                };
                let (path, value) = next();
                let packet = Packet::request(number, SET_DATA).text(&path);
                let packet = packet.bytes(&value).int(-1).finish();
                writer.write_all(&packet).await.map_err(|error| {
                    Failure::failed(format!("cannot write to ZooKeeper: {error}"))
                })?;
            }
            // The connection stays until all is answered.
            Ok::<_, Failure>(writer)
        };
        let (_, written) = tokio::try_join!(requests, answers)?;
        Ok(written)
    }

    fn request(&mut self, kind: i32) -> Packet {
        let packet = Packet::request(self.next, kind);
        self.next += 1;
        packet
    }

    /// Sends a request and waits for its answer.
    async fn ask(&mut self, request: Packet) -> Outcome {
        self.send(request).await?;
        let answer = receive(&mut self.reader).await;
        check(&self.server, answer)
    }

    async fn send(&mut self, packet: Packet) -> Outcome {
        let sent = self.writer.write_all(&packet.finish()).await;
        sent.map_err(|error| Failure::failed(format!("cannot write to {}: {error}", self.server)))
    }

    async fn receive(&mut self) -> Outcome<Vec<u8>> {
        let received = receive(&mut self.reader).await;
        received.map_err(|error| {
            Failure::failed(format!(
                "{} does not answer as a ZooKeeper: {error}",
                self.server
            ))
        })
    }
}

async fn receive(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Vec<u8>> {
    let length = reader.read_u32().await? as usize;
    if length > MAX_PACKET_BYTES {
        return Err(io::Error::other(format!("a packet of {length} bytes")));
    }
    let mut packet = vec![0; length];
    reader.read_exact(&mut packet).await?;
    Ok(packet)
}

/// An answer: its number, the transaction, the error code.
fn check(server: &str, answer: io::Result<Vec<u8>>) -> Outcome {
    let answer =
        answer.map_err(|error| Failure::failed(format!("{server} does not answer: {error}")))?;
    match int_at(&answer, 12) {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::failed(format!(
            "{server} refuses a request: ZooKeeper's error {code}"
        ))),
        None => Err(Failure::failed(format!(
            "{server} does not answer as a ZooKeeper"
        ))),
    }
}

fn int_at(packet: &[u8], place: usize) -> Option<i32> {
    let bytes = packet.get(place..place + 4)?;
    Some(i32::from_be_bytes(bytes.try_into().ok()?))
}

/// A packet that is being written.
#[derive(Default)]
struct Packet(Vec<u8>);

impl Packet {
    fn request(number: i32, kind: i32) -> Packet {
        Packet::default().int(number).int(kind)
    }

    fn int(mut self, value: i32) -> Packet {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn long(mut self, value: i64) -> Packet {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Packet {
        self.0.extend((bytes.len() as i32).to_be_bytes());
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Packet {
        self.bytes(text.as_bytes())
    }

    /// With its length before it.
    fn finish(self) -> Vec<u8> {
        let mut packet = (self.0.len() as u32).to_be_bytes().to_vec();
        packet.extend(self.0);
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_has_lengths_before_all_that_has_one() {
        let packet = Packet::request(7, SET_DATA)
            .text("/a")
            .bytes(b"xyz")
            .int(-1);
        assert_eq!(
            packet.finish(),
            [
                0, 0, 0, 25, 0, 0, 0, 7, 0, 0, 0, 5, 0, 0, 0, 2, b'/', b'a', 0, 0, 0, 3, b'x',
                b'y', b'z', 255, 255, 255, 255
            ]
        );
    }

    #[test]
    fn an_answer_with_an_error_code_is_an_error() {
        let answer = |code: i32| Packet::default().int(7).long(1).int(code).0;
        check("s", Ok(answer(0))).unwrap();
        let error = check("s", Ok(answer(-101))).unwrap_err().to_string();
        assert!(error.contains("-101"), "{error}");
        assert!(check("s", Ok(vec![1, 2])).is_err());
    }
}
