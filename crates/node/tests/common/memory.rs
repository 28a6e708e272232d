//! A network in memory, on whose connections only so many bytes are ever under way.

use eaves::{Connection, Listener, Network, Task};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

/// Bytes under way in one direction of a connection, at most.
pub const UNDER_WAY_BYTES: usize = 64 << 10;

/// Who listens where. Clones are the same network.
#[derive(Clone, Default)]
pub struct Memory {
    places: Arc<Mutex<HashMap<String, mpsc::UnboundedSender<Connection>>>>,
}

impl Network for Memory {
    fn connect<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Connection>> {
        Box::pin(async move {
            let (one, other) = tokio::io::duplex(UNDER_WAY_BYTES);
            let end = |stream| {
                let (reader, writer) = tokio::io::split(stream);
                Connection {
                    reader: Box::new(reader),
                    writer: Box::new(writer),
                    peer: address.to_string(),
                }
            };
            let place = self.places.lock().unwrap().get(address).cloned();
            let sent = place.is_some_and(|place| place.send(end(other)).is_ok());
            sent.then(|| end(one))
                .ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let mut places = self.places.lock().unwrap();
            let address = match address.strip_suffix(":0") {
                Some(host) => format!("{host}:memory{}", places.len()),
                None => address.to_string(),
            };
            let (place, arriving) = mpsc::unbounded_channel();
            places.insert(address.clone(), place);
            Ok(Box::new(Place { address, arriving }) as Box<dyn Listener>)
        })
    }
}

struct Place {
    address: String,
    arriving: mpsc::UnboundedReceiver<Connection>,
}

impl Listener for Place {
    fn accept(&mut self) -> Task<'_, io::Result<Connection>> {
        Box::pin(async move {
            let arrived = self.arriving.recv().await;
            arrived.ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
        })
    }

    fn address(&self) -> io::Result<String> {
        Ok(self.address.clone())
    }
}
