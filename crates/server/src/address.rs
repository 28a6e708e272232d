//! Addresses as users write them: `host:port`, `http://host:port`, `name=http://host:port`, and lists of these.
//!
//! Parsing is pure and knows which flag the text came from, so that every complaint names it.

use crate::failure::{Failure, Outcome};
use std::fmt;

/// A host (name, IPv4, or IPv6 in brackets) and a port. Names are not resolved here: they are resolved again at every connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// An address from its parts; `host` as it would stand in a URL.
    pub fn new(host: impl Into<String>, port: u16) -> Address {
        Address {
            host: host.into(),
            port,
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host, IPv6 in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The address as a URL.
    pub fn url(&self) -> String {
        format!("http://{self}")
    }

    /// Parses `host:port` or `http://host:port`, given to `flag`.
    pub fn parse(flag: &str, text: &str) -> Outcome<Address> {
        let wrong = |cause: &str, next: String| {
            Err(Failure::usage(format!("{flag}: {text:?} {cause}; {next}")))
        };
        if let Some(rest) = text.strip_prefix("https://") {
            return wrong(
                "asks for TLS, which eaves does not have yet",
                format!("use http://{rest}"),
            );
        }
        let bare = text.strip_prefix("http://").unwrap_or(text);
        let bare = bare.strip_suffix('/').unwrap_or(bare);
        if bare.contains("://") {
            return wrong(
                "has an unknown scheme",
                "write http://HOST:PORT".to_string(),
            );
        }
        if bare.contains(['/', '?', '#', '@']) || bare.contains(char::is_whitespace) {
            return wrong(
                "has more than a host and a port",
                "write http://HOST:PORT".to_string(),
            );
        }
        let Some((host, port)) = split_port(bare) else {
            return wrong("has no port", format!("write for example {bare}:2379"));
        };
        if host.is_empty() {
            return wrong("has no host", format!("write for example 127.0.0.1:{port}"));
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return wrong(
                "is ambiguous",
                format!("write an IPv6 address in brackets: [{host}]:{port}"),
            );
        }
        match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(Address::new(host, port)),
            _ => wrong(
                "has no valid port",
                "write a port from 1 to 65535".to_string(),
            ),
        }
    }

    /// Parses a comma-separated list of at least one address.
    pub fn parse_list(flag: &str, text: &str) -> Outcome<Vec<Address>> {
        let addresses = split_list(text)
            .map(|item| Address::parse(flag, item))
            .collect::<Outcome<Vec<_>>>()?;
        if addresses.is_empty() {
            return Err(Failure::usage(format!(
                "{flag}: the list is empty; write HOST:PORT,..."
            )));
        }
        Ok(addresses)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Parses `name=url,name=url,...`, the form of `--initial-cluster`. Names and addresses must differ from one another.
pub fn parse_named_list(flag: &str, text: &str) -> Outcome<Vec<(String, Address)>> {
    let mut members: Vec<(String, Address)> = Vec::new();
    for item in split_list(text) {
        let Some((name, url)) = item.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(Failure::usage(format!(
                "{flag}: {item:?} has no name; write NAME=http://HOST:PORT,..."
            )));
        };
        let address = Address::parse(flag, url)?;
        if members.iter().any(|(other, _)| other == name) {
            return Err(Failure::usage(format!(
                "{flag}: {name:?} is there twice; give every member a name of its own"
            )));
        }
        if members.iter().any(|(_, other)| *other == address) {
            return Err(Failure::usage(format!(
                "{flag}: {address} is there twice; give every member an address of its own"
            )));
        }
        members.push((name.to_string(), address));
    }
    if members.is_empty() {
        return Err(Failure::usage(format!(
            "{flag}: the list is empty; write NAME=http://HOST:PORT,..."
        )));
    }
    Ok(members)
}

fn split_list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn split_port(text: &str) -> Option<(&str, &str)> {
    match text.rsplit_once(':') {
        // In "[::1]" the last colon belongs to the address.
        Some((_, port)) if port.ends_with(']') => None,
        parts => parts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        match Address::parse("--endpoints", text) {
            Err(failure) => failure.to_string(),
            Ok(address) => panic!("{text:?} was taken as {address}"),
        }
    }

    #[test]
    fn takes_the_forms_users_write() {
        for text in [
            "127.0.0.1:2379",
            "http://127.0.0.1:2379",
            "http://127.0.0.1:2379/",
        ] {
            assert_eq!(
                Address::parse("--endpoints", text).unwrap(),
                Address::new("127.0.0.1", 2379)
            );
        }
        assert_eq!(
            Address::parse("-", "[::1]:80").unwrap(),
            Address::new("[::1]", 80)
        );
        assert_eq!(
            Address::parse("-", "db.example:80").unwrap().url(),
            "http://db.example:80"
        );
    }

    #[test]
    fn complaints_name_the_flag_and_what_to_write() {
        for (text, cause, next) in [
            ("https://a:1", "TLS", "use http://a:1"),
            ("unix://a", "unknown scheme", "http://HOST:PORT"),
            ("127.0.0.1", "no port", "127.0.0.1:2379"),
            ("[::1]", "no port", "[::1]:2379"),
            ("::1:2379", "ambiguous", "[::1]:2379"),
            (":2379", "no host", "127.0.0.1:2379"),
            ("a:b", "no valid port", "1 to 65535"),
            ("a:0", "no valid port", "1 to 65535"),
            ("a:70000", "no valid port", "1 to 65535"),
            ("http://a:1/path", "more than a host", "http://HOST:PORT"),
        ] {
            let error = error(text);
            assert!(error.starts_with("--endpoints: "), "{error}");
            assert!(error.contains(cause) && error.contains(next), "{error}");
        }
    }

    #[test]
    fn lists_skip_blanks_and_are_never_empty() {
        let list = Address::parse_list("--endpoints", "a:1, b:2,").unwrap();
        assert_eq!(list, [Address::new("a", 1), Address::new("b", 2)]);
        assert!(Address::parse_list("--endpoints", " ,").is_err());
    }

    #[test]
    fn named_lists_refuse_what_is_there_twice() {
        let members = parse_named_list("--initial-cluster", "a=http://h:1,b=http://h:2").unwrap();
        assert_eq!(
            members,
            [
                ("a".into(), Address::new("h", 1)),
                ("b".into(), Address::new("h", 2))
            ]
        );
        for (text, cause) in [
            ("a=h:1,a=h:2", "\"a\" is there twice"),
            ("a=h:1,b=h:1", "h:1 is there twice"),
            ("h:1", "has no name"),
            ("=h:1", "has no name"),
            ("", "empty"),
        ] {
            let error = parse_named_list("--initial-cluster", text)
                .unwrap_err()
                .to_string();
            assert!(error.contains(cause), "{error}");
        }
    }
}
