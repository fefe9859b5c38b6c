//! What the servers of a cluster say of it: which of them has which slots.

use super::failure::unexpected;
use super::url::Place;
use crate::kv::{Error, Result};
use redis::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::str::from_utf8;

/// The slots from the first to the last, and who has them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    pub first: u16,
    pub last: u16,
    pub master: Place,
}

/// The answer of one server.
#[derive(Clone, Debug)]
pub struct Report {
    pub from: Place,
    pub ranges: Vec<Range>,
    /// All servers by their ids, masters and replicas.
    pub places: BTreeMap<Vec<u8>, Place>,
    /// How many changes of the cluster the server knows of.
    pub epoch: u64,
}

impl Report {
    /// Reads the replies to CLUSTER SLOTS and CLUSTER INFO.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] if they are not as the specification says;
    /// [`Error::Connection`] if no slot is assigned yet.
    pub fn read(slots: &Value, info: &Value, from: &Place) -> Result<Self> {
        let wrong = || Error::Backend(format!("{from}: unexpected reply to CLUSTER SLOTS"));
        let Value::Array(entries) = slots else {
            return Err(unexpected(slots));
        };
        let mut report = Self {
            from: from.clone(),
            ranges: Vec::with_capacity(entries.len()),
            places: BTreeMap::new(),
            epoch: epoch(info),
        };
        for entry in entries {
            let Value::Array(entry) = entry else {
                return Err(wrong());
            };
            let [Value::Int(first), Value::Int(last), servers @ ..] = &entry[..] else {
                return Err(wrong());
            };
            let mut places = Vec::new();
            for server in servers {
                let (place, id) = server_of(server, from).ok_or_else(wrong)?;
                report.places.insert(id, place.clone());
                places.push(place);
            }
            let number = |number: &i64| u16::try_from(*number).map_err(|_| wrong());
            report.ranges.push(Range {
                first: number(first)?,
                last: number(last)?,
                master: places.into_iter().next().ok_or_else(wrong)?,
            });
        }
        if report.ranges.is_empty() {
            let why = "the cluster has not assigned any slots yet";
            return Err(Error::Connection(format!("{from}: {why}")));
        }
        report.ranges.sort_unstable();
        Ok(report)
    }

    /// Has the servers at other places.
    pub fn relocate(&mut self, places: &BTreeMap<Place, Place>) {
        let masters = self.ranges.iter_mut().map(|range| &mut range.master);
        for place in masters.chain(self.places.values_mut()) {
            if let Some(other) = places.get(place) {
                *place = other.clone();
            }
        }
    }

    /// Whether it tells of the same cluster as the servers that were known, whatever
    /// has changed since. The one that answers may have moved to another cluster.
    fn continues(&self, known: &BTreeMap<Vec<u8>, Place>) -> bool {
        known.len() < 2
            || self
                .places
                .iter()
                .any(|(id, place)| *place != self.from && known.contains_key(id))
    }
}

fn epoch(info: &Value) -> u64 {
    let text = match info {
        Value::BulkString(text) => from_utf8(text).unwrap_or_default(),
        _ => "",
    };
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("cluster_current_epoch:"));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// A server's place and id.
fn server_of(server: &Value, from: &Place) -> Option<(Place, Vec<u8>)> {
    let Value::Array(parts) = server else {
        return None;
    };
    let [host, Value::Int(port), rest @ ..] = &parts[..] else {
        return None;
    };
    let host = match host {
        Value::BulkString(host) => from_utf8(host).ok()?,
        _ => "",
    };
    let place = place_of(host, u16::try_from(*port).ok()?, from)?;
    let id = match rest.first() {
        Some(Value::BulkString(id)) => id.clone(),
        _ => place.to_string().into_bytes(),
    };
    Some((place, id))
}

/// The place in a redirection, such as `host:port`.
pub fn redirected(text: &str, from: &Place) -> Option<Place> {
    let (host, port) = text.rsplit_once(':')?;
    place_of(host.trim_matches(['[', ']']), port.parse().ok()?, from)
}

/// A server that doesn't know its own name, or may not tell it, is where we have
/// reached the one that speaks of it.
fn place_of(host: &str, port: u16, from: &Place) -> Option<Place> {
    if !matches!(host, "" | "?" | "0.0.0.0" | "::") {
        return Some(Place::Tcp(host.to_owned(), port));
    }
    match from {
        Place::Tcp(host, _) => Some(Place::Tcp(host.clone(), port)),
        Place::Unix(_) => None,
    }
}

/// The answer that counts, of servers that may disagree: that of most of them, or else
/// the newest. `None` if none is of the cluster whose servers were `known`.
pub fn choose(reports: Vec<Report>, known: &BTreeMap<Vec<u8>, Place>) -> Option<Report> {
    let votes = |report: &Report| reports.iter().filter(|other| other.ranges == report.ranges).count();
    let mut best: Option<((bool, usize, u64), usize)> = None;
    for (index, report) in reports.iter().enumerate() {
        let rank = (report.continues(known), votes(report), report.epoch);
        if best.is_none_or(|(other, _)| rank > other) {
            best = Some((rank, index));
        }
    }
    let ((continues, ..), index) = best?;
    if !continues {
        // Of two servers, one may be left.
        let ids: BTreeSet<_> = reports[index].places.keys().collect();
        let alone = known.len() == 2 && ids.len() == 1 && ids.iter().all(|id| known.contains_key(*id));
        if !alone {
            return None;
        }
    }
    reports.into_iter().nth(index)
}

/// Whether so many of those that were asked agree that the others don't matter.
pub fn is_decided(reports: &[Report], asked: usize) -> bool {
    let votes = |report: &Report| reports.iter().filter(|other| other.ranges == report.ranges).count();
    reports.iter().any(|report| 2 * votes(report) > asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn place(host: &str, port: u16) -> Place {
        Place::Tcp(host.into(), port)
    }

    /// A range of slots, with the hosts, ports and ids of its servers.
    fn range(first: i64, last: i64, servers: &[(Value, i64, &str)]) -> Value {
        let mut entry = vec![Value::Int(first), Value::Int(last)];
        for (host, port, id) in servers {
            entry.push(Value::Array(vec![host.clone(), Value::Int(*port), bulk(id)]));
        }
        Value::Array(entry)
    }

    fn read(entries: Vec<Value>) -> Result<Report> {
        let info = bulk("cluster_state:ok\r\ncluster_current_epoch:7\r\n");
        Report::read(&Value::Array(entries), &info, &place("seed", 1))
    }

    #[test]
    fn servers_may_not_know_their_names() {
        let report = read(vec![
            range(5, 9, &[(Value::Nil, 2, "b"), (bulk("?"), 3, "c")]),
            range(0, 4, &[(bulk(""), 1, "a"), (bulk("::1"), 4, "d")]),
        ])
        .unwrap();
        assert_eq!(report.epoch, 7);
        let masters: Vec<_> = report.ranges.iter().map(|range| range.master.clone()).collect();
        assert_eq!(masters, [place("seed", 1), place("seed", 2)]);
        assert_eq!(report.places[&b"c"[..]], place("seed", 3));
        assert_eq!(report.places[&b"d"[..]].to_string(), "[::1]:4");
        assert_eq!(redirected(":5", &place("x", 1)), Some(place("x", 5)));
        assert_eq!(redirected("::1:5", &place("x", 1)), Some(place("::1", 5)));
        assert_eq!(redirected("h", &place("x", 1)), None);
    }

    #[test]
    fn servers_may_be_elsewhere() {
        let mut report = read(vec![range(0, 9, &[(bulk("10.0.0.1"), 6379, "a"), (bulk("b"), 1, "b")])]).unwrap();
        report.relocate(&BTreeMap::from([(place("10.0.0.1", 6379), place("127.0.0.1", 7000))]));
        assert_eq!(report.ranges[0].master, place("127.0.0.1", 7000));
        assert_eq!(report.places[&b"a"[..]], place("127.0.0.1", 7000));
        assert_eq!(report.places[&b"b"[..]], place("b", 1));
    }

    #[test]
    fn what_is_no_map_is_refused() {
        assert!(read(Vec::new()).is_err());
        assert!(read(vec![range(0, 9, &[])]).is_err());
        assert!(read(vec![range(0, 99_999, &[(bulk("a"), 1, "a")])]).is_err());
        assert!(read(vec![Value::Int(1)]).is_err());
    }

    /// A report of a server, by which all slots belong to the first of these.
    fn report(from: u16, epoch: u64, ids: &[&str]) -> Report {
        let port = |id: &str| u16::from(id.as_bytes()[0]);
        Report {
            from: place("h", from),
            ranges: vec![Range {
                first: 0,
                last: 16_383,
                master: place("h", port(ids[0])),
            }],
            places: ids.iter().map(|id| ((*id).into(), place("h", port(id)))).collect(),
            epoch,
        }
    }

    fn chosen(reports: &[Report], known: &[&str]) -> Option<u64> {
        let known = report(0, 0, known).places;
        choose(reports.to_vec(), &known).map(|report| report.epoch)
    }

    #[test]
    fn most_servers_decide_and_then_the_newest() {
        let (a, b, c) = (u16::from(b'a'), u16::from(b'b'), u16::from(b'c'));
        let old = report(a, 1, &["a", "b", "c"]);
        let new = report(b, 2, &["b", "a", "c"]);
        assert_eq!(chosen(&[old.clone(), new.clone()], &["a", "b", "c"]), Some(2));
        let third = Report {
            from: place("h", c),
            ..old.clone()
        };
        assert_eq!(
            chosen(&[old.clone(), new.clone(), third.clone()], &["a", "b", "c"]),
            Some(1)
        );
        assert!(is_decided(&[old.clone(), third], 3));
        assert!(!is_decided(&[old, new], 3));
    }

    #[test]
    fn a_server_that_joined_another_cluster_does_not_decide() {
        let a = u16::from(b'a');
        let foreign = report(a, 9, &["a", "x", "y"]);
        assert_eq!(chosen(std::slice::from_ref(&foreign), &["a", "b", "c"]), None);
        let own = report(u16::from(b'b'), 1, &["b", "c"]);
        assert_eq!(chosen(&[foreign.clone(), own], &["a", "b", "c"]), Some(1));
        // The first answer may be of any cluster.
        assert_eq!(chosen(&[foreign], &["a"]), Some(9));
        let left = report(a, 3, &["a"]);
        assert_eq!(chosen(&[left], &["a", "b"]), Some(3));
    }
}
