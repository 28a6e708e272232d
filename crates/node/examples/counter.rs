//! A replicated counter: three voters, two listeners, one process. Run it with `cargo run -p eaves --example counter`.
use bytes::Bytes;
use eaves::{
    Command, Config, Group, Node, Position, SnapshotSink, SnapshotSource, StartAs, StateMachine,
};
use std::{io, path::PathBuf, sync::Arc, sync::Mutex, time::Duration};

/// What is counted, and where in the log that was.
#[derive(Clone, Default)]
struct State {
    sum: i64,
    index: u64,
    position: Position,
}

/// The state as applied, the state as last written, and the file it is written to.
struct Counter(Arc<Mutex<State>>, Arc<Mutex<State>>, PathBuf);

impl StateMachine for Counter {
    fn position(&self) -> Option<Position> {
        Some(self.1.lock().unwrap().position.clone()).filter(|position| !position.0.is_empty())
    }

    fn apply(
        &self,
        commands: &[Command],
        index: u64,
        position: Position,
    ) -> io::Result<Vec<Bytes>> {
        let mut state = self.0.lock().unwrap();
        (state.index, state.position) = (index, position);
        let number =
            |command: &Command| std::str::from_utf8(&command.data).ok()?.parse::<i64>().ok();
        let answers = commands.iter().map(|command| {
            state.sum += number(command).unwrap_or(0); // What is no number adds nothing, on every node alike.
            Bytes::from(state.sum.to_string())
        });
        Ok(answers.collect())
    }

    fn persist(&self, durable_index: u64) -> io::Result<Option<u64>> {
        let applied = self.0.lock().unwrap().clone();
        if applied.index <= durable_index && !applied.position.0.is_empty() {
            let bytes = [
                &applied.sum.to_le_bytes(),
                &applied.index.to_le_bytes(),
                &applied.position.0[..],
            ]
            .concat();
            std::fs::write(&self.2, bytes)?; // A real one would write beside it, sync, and rename.
            *self.1.lock().unwrap() = applied;
        }
        let written = self.1.lock().unwrap();
        Ok((!written.position.0.is_empty()).then_some(written.index))
    }

    fn snapshot(&self) -> io::Result<Box<dyn SnapshotSource>> {
        Ok(Box::new(Copy(
            self.1.lock().unwrap().clone(),
            false,
            self.0.clone(),
            self.1.clone(),
        )))
    }

    fn install(&self) -> io::Result<Box<dyn SnapshotSink>> {
        Ok(Box::new(Copy(
            State::default(),
            false,
            self.0.clone(),
            self.1.clone(),
        )))
    }
}

/// A state on its way to or from another node, whether it was sent, and where one that arrives belongs.
struct Copy(State, bool, Arc<Mutex<State>>, Arc<Mutex<State>>);

impl SnapshotSource for Copy {
    fn position(&self) -> Position {
        self.0.position.clone()
    }

    fn next_chunk(&mut self, _max_bytes: usize) -> io::Result<Option<Bytes>> {
        let state = &self.0;
        let bytes = [state.sum.to_le_bytes(), state.index.to_le_bytes()].concat();
        Ok((!std::mem::replace(&mut self.1, true)).then_some(bytes.into()))
    }
}

impl SnapshotSink for Copy {
    fn write_chunk(&mut self, chunk: Bytes) -> io::Result<()> {
        let (sum, index) = chunk.split_at(8);
        let number = |bytes: &[u8]| bytes.try_into().map_err(io::Error::other);
        (self.0.sum, self.0.index) = (
            i64::from_le_bytes(number(sum)?),
            u64::from_le_bytes(number(index)?),
        );
        Ok(())
    }

    fn finish(mut self: Box<Self>, position: Position) -> io::Result<()> {
        self.0.position = position;
        (*self.2.lock().unwrap(), *self.3.lock().unwrap()) = (self.0.clone(), self.0);
        Ok(())
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
                "127.0.0.1:0".to_string(),
            ),
        };
        let counter = Counter(
            Arc::default(),
            Arc::default(),
            dir.path().join(format!("{name}.sum")),
        );
        nodes.push(
            Node::start(
                Config::new(name, dir.path().join(name), address, start_as),
                Arc::new(counter),
            )
            .await?,
        );
    }
    for number in 1..=100 {
        let node = &nodes[number % nodes.len()]; // Any node takes a write, listeners too.
        let sum = node.write(number.to_string().into()).await?;
        println!(
            "{} added {number}: {}",
            node.status().borrow().name,
            String::from_utf8_lossy(&sum)
        );
    }
    for row in nodes[4].tree(Duration::from_secs(1)).await {
        println!(
            "{:9} {} applied {} entries, fed by {:?}",
            row.role.as_str(),
            row.name,
            row.applied,
            row.upstream
        );
    }
    Ok(())
}
