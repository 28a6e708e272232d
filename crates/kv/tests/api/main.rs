//! The etcd v3 API over TCP: one voter in this process, driven by the generated clients and by plain HTTP.

mod freshness;
mod http;
mod kv;
mod limits;
mod no_leader;
mod others;
mod server;
mod table;
mod watch;
