//! A Redis that is measured: a primary and two replicas on loopback, each with an append-only file that is synced at every write.
//!
//! Its protocol is a list of texts with their lengths before them; answers begin with a character for their kind. A put is `SET` and
//! `WAIT 1` in one packet: it is answered when it is on the primary's disk and one replica has it. That is less than what a put of Eaves or
//! etcd promises: the replica need not have it on its disk, and who takes the primary's place may be the one that has it not.

use crate::group::READY;
use crate::programs::Program;
use eaves_harness::process::{Server, free_ports};
use eaves_server::failure::{Failure, Outcome};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const SERVERS: usize = 3;
const POLL: Duration = Duration::from_millis(20);
const VALUE: [u8; 256] = [b'v'; 256];
/// Milliseconds that a put waits for a replica.
const WAIT_MS: &str = "10000";

/// The servers. Dropping them kills them and removes their data.
pub struct Redis {
    servers: Vec<Server>,
    port: u16,
    _directory: TempDir,
}

/// What a client asks for, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// `SET` and `WAIT 1`.
    Put,
    /// `GET`.
    Get,
}

impl Redis {
    /// Starts them, and waits until both replicas follow.
    pub async fn start(program: &Program, data: &Path) -> Outcome<Redis> {
        let failed = |error: io::Error| Failure::failed(format!("cannot start Redis: {error}"));
        let directory = tempfile::Builder::new()
            .prefix("eaves-bench-redis-")
            .tempdir_in(data)
            .map_err(failed)?;
        let ports = free_ports(SERVERS);
        let mut servers = Vec::new();
        for (place, port) in ports.iter().enumerate() {
            let home = directory.path().join(place.to_string());
            std::fs::create_dir(&home).map_err(failed)?;
            let mut command = program.command();
            command
                .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
                .args(["--appendonly", "yes", "--appendfsync", "always"])
                .args(["--save", "", "--dir"])
                .arg(&home);
            if place > 0 {
                command.args(["--replicaof", "127.0.0.1", &ports[0].to_string()]);
            }
            servers.push(Server::start("redis", command, &home.join("log.txt")));
        }
        let redis = Redis {
            servers,
            port: ports[0],
            _directory: directory,
        };
        redis.until_ready().await?;
        Ok(redis)
    }

    async fn until_ready(&self) -> Outcome {
        let deadline = Instant::now() + READY;
        while Instant::now() < deadline {
            // Both replicas have confirmed a write.
            let mut answer = String::new();
            if let Ok(mut client) = Client::connect(self.port).await {
                let asked = [&["SET", "ready", "yes"][..], &["WAIT", "2", "100"]];
                if client.ask(&asked).await.is_ok() {
                    answer = client.last;
                }
            }
            if answer == "2" {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        let logs: Vec<String> = self.servers.iter().map(Server::log_tail).collect();
        Err(Failure::failed(format!(
            "Redis's replicas do not follow: {}",
            logs.join("\n")
        )))
    }

    /// Process ids, the primary's first.
    pub fn processes(&self) -> Vec<u32> {
        self.servers.iter().map(Server::id).collect()
    }

    /// Puts all keys once.
    pub async fn fill(&self, keys: u64) -> Outcome {
        let mut client = Client::connect(self.port).await.map_err(broken)?;
        let value = String::from_utf8_lossy(&VALUE).into_owned();
        let keys: Vec<String> = (0..keys).map(key).collect();
        for some in keys.chunks(100) {
            let puts: Vec<[&str; 3]> = some.iter().map(|key| ["SET", key, &value]).collect();
            let puts: Vec<&[&str]> = puts.iter().map(|put| &put[..]).collect();
            client.ask(&puts).await.map_err(broken)?;
        }
        Ok(())
    }

    /// Puts a load on the primary: so many clients, each on a connection of its own, with one request under way. Seconds of each answer.
    pub async fn drive(
        &self,
        request: Request,
        clients: u32,
        keys: u64,
        time: Duration,
    ) -> Outcome<Vec<f64>> {
        let mut working = JoinSet::new();
        for number in 0..clients {
            let client = Client::connect(self.port).await.map_err(broken)?;
            working.spawn(ask_for(client, request, (u64::from(number), keys), time));
        }
        let mut all = Vec::new();
        while let Some(done) = working.join_next().await {
            all.extend(
                done.map_err(io::Error::other)
                    .and_then(|done| done)
                    .map_err(broken)?,
            );
        }
        Ok(all)
    }
}

async fn ask_for(
    mut client: Client,
    request: Request,
    (number, keys): (u64, u64),
    time: Duration,
) -> io::Result<Vec<f64>> {
    let value = String::from_utf8_lossy(&VALUE).into_owned();
    // Far apart, and each key as often as any other: steps of a large prime.
    let mut next = number.wrapping_mul(7_919);
    let mut seconds = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time {
        next = (next + 611_953) % keys;
        let key = key(next);
        let asked = Instant::now();
        match request {
            Request::Put => {
                let put = [&["SET", &key, &value][..], &["WAIT", "1", WAIT_MS]];
                client.ask(&put).await?;
                if client.last == "0" {
                    return Err(io::Error::other("no replica has a write"));
                }
            }
            Request::Get => client.ask(&[&["GET", &key]]).await?,
        }
        seconds.push(asked.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

fn key(number: u64) -> String {
    format!("/bench/{number:08}")
}

fn broken(error: io::Error) -> Failure {
    Failure::failed(format!("cannot ask Redis: {error}"))
}

/// A connection.
struct Client {
    stream: BufReader<TcpStream>,
    /// The last answer.
    last: String,
}

impl Client {
    async fn connect(port: u16) -> io::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Client {
            stream: BufReader::new(stream),
            last: String::new(),
        })
    }

    /// Sends commands in one packet and waits for the answers to all.
    async fn ask(&mut self, commands: &[&[&str]]) -> io::Result<()> {
        let packet: String = commands.iter().map(|words| encode(words)).collect();
        self.stream.write_all(packet.as_bytes()).await?;
        for _ in commands {
            self.answer().await?;
        }
        Ok(())
    }

    async fn answer(&mut self) -> io::Result<()> {
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        let Some((kind, rest)) = line.trim_end().split_at_checked(1) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        self.last = rest.to_owned();
        match kind {
            "+" | ":" => Ok(()),
            // A text of this length, or none.
            "$" if rest == "-1" => Ok(()),
            "$" => {
                let length: usize = rest.parse().map_err(io::Error::other)?;
                let mut bytes = vec![0; length + 2];
                self.stream.read_exact(&mut bytes).await.map(drop)
            }
            _ => Err(io::Error::other(format!("it answers {}", line.trim_end()))),
        }
    }
}

fn encode(words: &[&str]) -> String {
    let mut packet = format!("*{}\r\n", words.len());
    for word in words {
        packet.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_list_of_texts_with_their_lengths() {
        assert_eq!(encode(&["GET", "/a"]), "*2\r\n$3\r\nGET\r\n$2\r\n/a\r\n");
    }

    #[tokio::test]
    async fn answers_of_all_kinds_are_read() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut client = Client::connect(port).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        let answers = b"+OK\r\n:2\r\n$3\r\nabc\r\n$-1\r\n-ERR no\r\n";
        theirs.write_all(answers).await.unwrap();
        client.answer().await.unwrap();
        client.answer().await.unwrap();
        assert_eq!(client.last, "2");
        client.answer().await.unwrap();
        client.answer().await.unwrap();
        let error = client.answer().await.unwrap_err().to_string();
        assert!(error.contains("ERR no"), "{error}");
    }
}
