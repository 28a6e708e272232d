//! Checks that every port is free before the first child is started: one clear line beats nine logs.

use super::layout::PlannedNode;
use crate::failure::{Failure, Outcome};
use std::net::TcpListener;

/// Binds each port of each node for a moment.
pub fn check_free(nodes: &[PlannedNode]) -> Outcome {
    for node in nodes {
        for (address, purpose) in [(&node.client, "clients"), (&node.peer, "peers")] {
            if let Err(error) = TcpListener::bind(address.to_string()) {
                return Err(Failure::failed(format!(
                    "port {} ({} of {}) cannot be used: {error}; stop what uses it, or give another --base-port",
                    address.port(),
                    purpose,
                    node.name,
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::up::layout::Kind;

    #[test]
    fn a_port_in_use_is_named_with_its_node_and_the_flag() {
        let used = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = used.local_addr().unwrap().port();
        let node = PlannedNode {
            name: "v1".into(),
            kind: Kind::Voter,
            client: Address::new("127.0.0.1", port),
            peer: Address::new("127.0.0.1", port),
        };
        let error = check_free(&[node]).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("port {port} (clients of v1)")),
            "{error}"
        );
        assert!(error.contains("--base-port"), "{error}");
        assert!(check_free(&[]).is_ok());
    }
}
