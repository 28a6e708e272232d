//! A replicated counter: three voters, two listeners, one process. Run it with `cargo run -p eaves --example counter`.

use bytes::Bytes;
use eaves::{Config, Group, Node, SmallMachine, SmallState, StartAs};
use std::{io, sync::Arc, time::Duration};

#[derive(Clone, Default)]
struct Counter(i64);

impl SmallState for Counter {
    fn apply(&mut self, command: &[u8]) -> Bytes {
        // What is no number adds nothing, on every node alike.
        let number = std::str::from_utf8(command)
            .ok()
            .and_then(|text| text.parse().ok());
        self.0 = self.0.wrapping_add(number.unwrap_or(0));
        self.0.to_string().into()
    }

    fn to_bytes(&self) -> Bytes {
        self.0.to_string().into()
    }

    fn from_bytes(bytes: &[u8]) -> io::Result<Counter> {
        let text = std::str::from_utf8(bytes).map_err(io::Error::other)?;
        text.parse().map(Counter).map_err(io::Error::other)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let founders: Vec<_> = (1..=3)
        .map(|n| (format!("v{n}"), format!("127.0.0.1:{}", 2600 + n)))
        .collect();
    let group = Group::new("counter", &founders);
    let upstreams: Vec<_> = founders
        .iter()
        .map(|(_, address)| address.clone())
        .collect();

    let mut nodes = Vec::new();
    for name in ["v1", "v2", "v3", "l1", "l2"] {
        let (start_as, address) = match group.founder(name) {
            Some(founder) => (
                StartAs::Voter {
                    group: group.clone(),
                },
                founder.peer_address.clone(),
            ),
            None => (
                StartAs::Listener {
                    upstreams: upstreams.clone(),
                },
                "127.0.0.1:0".into(),
            ),
        };
        let data_dir = dir.path().join(name);
        std::fs::create_dir(&data_dir)?;
        let counter = SmallMachine::<Counter>::open(&data_dir.join("sum"))?;
        let node = Node::start(
            Config::new(name, data_dir, address, start_as),
            Arc::new(counter.clone()),
        )
        .await?;
        nodes.push((name, node, counter));
    }

    // Any node takes a write, listeners too, and any node reads it back.
    for number in 1..=100 {
        let (writer, node, _) = &nodes[number % 5];
        let sum = node.write(number.to_string().into()).await?;
        let (reader, node, counter) = &nodes[(number + 2) % 5];
        node.read_barrier().await?;
        let read = counter.read(|counter| counter.0);
        println!(
            "{writer} added {number} and got {}; {reader} reads {read}",
            String::from_utf8_lossy(&sum)
        );
    }

    for row in nodes[4].1.tree(Duration::from_secs(1)).await {
        let fed_by = row
            .upstream
            .map_or("Raft".into(), |id| format!("node {id:x}"));
        println!(
            "{:8} {} is node {:x}, has applied entry {}, fed by {fed_by}",
            row.role.as_str(),
            row.name,
            row.id,
            row.applied
        );
    }
    for (_, node, _) in &nodes {
        node.shutdown().await;
    }
    Ok(())
}
