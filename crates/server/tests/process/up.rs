//! `eaves up` as a newcomer sees it: a write travels from a voter to the deepest listener. What can be in its way is told in the tests
//! of the command line.

use crate::EAVES;
use eaves_harness::process::{Server, eventually, free_port_range};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Three voters and six listeners, each with ten ports.
const NODES: u16 = 9;
const PORTS_PER_NODE: u16 = 10;

#[tokio::test]
async fn a_write_travels_from_a_voter_to_the_deepest_listener_and_survives_an_interruption() {
    let place = tempfile::tempdir().expect("make a directory");
    let data_dir = place.path().join("data");
    let base = free_port_range(NODES * PORTS_PER_NODE);
    let voter = format!("127.0.0.1:{base}");

    let mut server = up(place.path(), &data_dir, "first", base);
    let printed = ready(&mut server, &place.path().join("first")).await;
    for number in 0..NODES {
        let address = format!("127.0.0.1:{}", base + number * PORTS_PER_NODE);
        // Once in the list of nodes, once in the tree.
        assert_eq!(printed.matches(&address).count(), 2, "{address}: {printed}");
    }
    let deepest = deepest_listener(&voter);
    assert!(deepest["depth"].as_u64() >= Some(2), "{printed}");
    let endpoint = deepest["client_url"].as_str().expect("an address");
    let endpoint = endpoint.trim_start_matches("http://");

    assert_eq!(EAVES.run(&voter, &["put", "greeting", "hello"]), "OK\n");
    eventually("the write has arrived", async || {
        (read_locally(endpoint, "greeting") == "greeting\nhello\n").then_some(())
    })
    .await;

    server.signal("INT");
    assert!(server.wait().await.success(), "{}", server.log_tail());
    assert_eq!(processes_of(&data_dir), Vec::<String>::new());

    let mut server = up(place.path(), &data_dir, "second", base);
    ready(&mut server, &place.path().join("second")).await;
    // From its own disk: this read asks nobody.
    assert_eq!(read_locally(endpoint, "greeting"), "greeting\nhello\n");
    server.signal("INT");
    assert!(server.wait().await.success(), "{}", server.log_tail());
    assert_eq!(processes_of(&data_dir), Vec::<String>::new());
}

fn up(place: &Path, data_dir: &Path, log: &str, base: u16) -> Server {
    let mut command = EAVES.command();
    command
        .arg("up")
        .arg("--data-dir")
        .arg(data_dir)
        .args(["--base-port", &base.to_string()]);
    Server::start("eaves up", command, &place.join(log))
}

/// Waits until all nodes are ready, and gives what was printed until then.
async fn ready(server: &mut Server, log: &Path) -> String {
    eventually("all nodes are ready", async || {
        server.assert_running();
        let printed = fs::read_to_string(log).expect("what was printed");
        printed.contains("all nodes are ready").then_some(printed)
    })
    .await
}

fn deepest_listener(endpoint: &str) -> Value {
    let rows = EAVES.run(endpoint, &["tree", "--json"]);
    let rows: Vec<Value> = serde_json::from_str(&rows).expect("the output is JSON");
    let deepest = rows.into_iter().max_by_key(|row| row["depth"].as_u64());
    deepest.expect("a tree has nodes")
}

fn read_locally(endpoint: &str, key: &str) -> String {
    EAVES.run(endpoint, &["get", "--serializable", key])
}

/// The command lines of the processes that work in a directory.
fn processes_of(directory: &Path) -> Vec<String> {
    let wanted = directory.display().to_string();
    let processes = fs::read_dir("/proc").expect("a list of processes");
    processes
        .filter_map(|process| fs::read(process.ok()?.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&wanted))
        .collect()
}
