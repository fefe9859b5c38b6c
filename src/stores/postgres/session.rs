//! Which kind of server is wanted: `target_session_attrs`.

use tokio_postgres::SimpleQueryMessage;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    /// A standby if one can be reached, and otherwise any server.
    PreferStandby,
}

/// A server's kind.
#[derive(Clone, Copy)]
pub struct Kind {
    standby: bool,
    /// Whether transactions are read-only unless they say otherwise.
    read_only: bool,
}

impl Session {
    pub const NAMES: &[(&str, Self)] = &[
        ("any", Self::Any),
        ("read-write", Self::ReadWrite),
        ("read-only", Self::ReadOnly),
        ("primary", Self::Primary),
        ("standby", Self::Standby),
        ("prefer-standby", Self::PreferStandby),
    ];

    /// Why a server is of the wrong kind.
    pub fn refusal(self, kind: Kind) -> Option<&'static str> {
        match self {
            Self::ReadWrite if kind.read_only => Some("the server does not allow writes"),
            Self::ReadOnly if !kind.read_only => Some("the server is not read-only"),
            Self::Primary if kind.standby => Some("the server is a standby"),
            Self::Standby | Self::PreferStandby if !kind.standby => Some("the server is not a standby"),
            _ => None,
        }
    }
}

impl Kind {
    /// Asks for the kind. What a server says when a client logs in would not do:
    /// a pooler repeats what it was once told.
    pub const QUERY: &str =
        "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only')";

    pub fn of(answer: &[SimpleQueryMessage]) -> Self {
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let is = |column, text| row.is_some_and(|row| row.get(column) == Some(text));
        Self {
            standby: is(0, "t"),
            read_only: is(1, "on"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_server_is_wanted_by_some() {
        let wanted = |standby, read_only| -> Vec<_> {
            let kind = Kind { standby, read_only };
            let fits = Session::NAMES
                .iter()
                .filter(|(_, session)| session.refusal(kind).is_none());
            fits.map(|(name, _)| *name).collect()
        };
        assert_eq!(wanted(false, false), ["any", "read-write", "primary"]);
        assert_eq!(wanted(false, true), ["any", "read-only", "primary"]);
        assert_eq!(wanted(true, true), ["any", "read-only", "standby", "prefer-standby"]);
    }
}
