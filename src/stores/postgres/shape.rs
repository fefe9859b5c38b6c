//! The table's shape, as the catalogue has it: whether it can be used, even if
//! another program made it.

use crate::kv::Result;
use crate::stores::table_faults::TableFaults;

/// A row of the statement that reads the catalogue.
pub enum Part {
    Table {
        /// `relkind` and `relpersistence`.
        kind: String,
        persistence: String,
        /// Whether other tables inherit from it.
        has_children: bool,
    },
    Column {
        name: String,
        /// Without domains, as `format_type` shows it.
        data_type: String,
        /// Neither nullable nor with a default.
        must_be_given: bool,
        is_primary: bool,
        is_nondeterministic: bool,
    },
    /// A unique index on the key alone.
    Index {
        name: String,
        /// Without a schema.
        constraint: String,
        /// Whether all rows are in it.
        is_whole: bool,
        is_deferrable: bool,
        is_nondeterministic: bool,
    },
}

impl Part {
    /// `None` for rows that are none of these.
    pub fn of(row: &tokio_postgres::Row) -> Option<Self> {
        let text = |index: usize| row.try_get::<_, Option<String>>(index).ok().flatten();
        let flag = |index: usize| row.try_get::<_, bool>(index).ok();
        let name = text(1)?;
        Some(match text(0)?.as_str() {
            "table" => Self::Table {
                kind: text(2)?,
                persistence: name,
                has_children: flag(3)?,
            },
            "column" => Self::Column {
                name,
                data_type: text(2)?,
                must_be_given: flag(3)?,
                is_primary: flag(4)?,
                is_nondeterministic: flag(5)?,
            },
            "index" => Self::Index {
                name,
                constraint: text(2)?,
                is_whole: flag(3)?,
                is_deferrable: flag(4)?,
                is_nondeterministic: flag(5)?,
            },
            _ => return None,
        })
    }
}

/// Begins a statement of its own; other mends are parts of ALTER TABLE.
const DROP_INDEX: &str = "DROP INDEX";

/// A column that the store needs.
struct Needed {
    name: &'static str,
    data_type: &'static str,
    /// How to add it, if a table without it can be the store's.
    added: Option<&'static str>,
}

const NEEDED: [Needed; 4] = [
    Needed {
        name: "key",
        data_type: "text[]",
        added: None,
    },
    Needed {
        name: "value",
        data_type: "jsonb",
        added: None,
    },
    Needed {
        name: "created",
        data_type: "timestamp with time zone",
        added: Some("DEFAULT CURRENT_TIMESTAMP"),
    },
    Needed {
        name: "ttl",
        data_type: "interval",
        added: Some(""),
    },
];

/// Makes sure that the store keeps its promises on a table: keys are equal only if
/// their bytes are, and times are exact to the millisecond. What doesn't matter
/// isn't looked at, such as the order of columns and of keys.
///
/// # Errors
///
/// [`Error::Backend`](crate::kv::Error::Backend) with the statement that mends it.
pub fn check(table: &str, parts: &[Part]) -> Result<()> {
    let mut faults = TableFaults::default();
    let mut is_unique = false;
    let mixes_keys = parts
        .iter()
        .any(|part| matches!(part, Part::Column { name, is_nondeterministic: true, .. } if name == "key"));
    if mixes_keys {
        faults.add(
            "the collation of its column \"key\" takes different keys for the same".into(),
            "ALTER COLUMN \"key\" TYPE text[] COLLATE \"default\"",
        );
    }
    for part in parts {
        match part {
            Part::Table { kind, has_children, .. } => check_kind(kind, *has_children, &mut faults),
            Part::Column {
                name,
                data_type,
                must_be_given,
                is_primary,
                ..
            } => {
                let needed = NEEDED.iter().find(|needed| needed.name == name);
                // That mends the type, too.
                let mended = mixes_keys && name == "key" && data_type.ends_with("[]");
                if let Some(needed) = needed.filter(|needed| !mended && !fits(data_type, needed.data_type)) {
                    check_type(needed, data_type, &mut faults);
                }
                // The store always gives these.
                let may_be_left_out = !matches!(name.as_str(), "key" | "value" | "created");
                if *must_be_given && may_be_left_out {
                    let what = format!("its column {} has neither a default nor NULLs", quoted(name));
                    if *is_primary {
                        faults.add_lasting(what);
                    } else {
                        faults.add(what, format!("ALTER COLUMN {} DROP NOT NULL", quoted(name)));
                    }
                }
            }
            Part::Index {
                name,
                constraint,
                is_whole,
                is_deferrable,
                is_nondeterministic,
            } => {
                // An index usually has the column's collation, and changes with it.
                let mixes_keys = *is_nondeterministic && !mixes_keys;
                is_unique |= *is_whole && !is_deferrable && !mixes_keys;
                // ON CONFLICT refuses it, even beside another.
                if *is_deferrable {
                    let what = format!("its unique constraint {constraint} is deferrable");
                    faults.add(what, format!("DROP CONSTRAINT {constraint}"));
                }
                if mixes_keys {
                    let what = format!("the collation of its index {name} takes different keys for the same");
                    faults.add(what, format!("{DROP_INDEX} {name}"));
                }
            }
        }
    }
    for needed in &NEEDED {
        let has = |part: &Part| matches!(part, Part::Column { name, .. } if name == needed.name);
        if !parts.iter().any(has) {
            let what = format!("it has no column {}", quoted(needed.name));
            match needed.added {
                None => faults.add_lasting(what),
                Some(more) => {
                    let column = format!("ADD COLUMN {} {} {more}", quoted(needed.name), needed.data_type);
                    faults.add(what, column.trim_end());
                }
            }
        }
    }
    if !is_unique {
        let name = "it has no unique index on the column \"key\" alone that all rows are in";
        faults.add(name.into(), "ADD UNIQUE (\"key\")");
    }
    faults.check(table, |parts| {
        let (mut statements, changes): (Vec<_>, Vec<_>) =
            parts.iter().cloned().partition(|part| part.starts_with(DROP_INDEX));
        if !changes.is_empty() {
            statements.push(format!("ALTER TABLE {table} {}", changes.join(", ")));
        }
        statements.join("; ")
    })
}

/// The store finds rows by their `ctid` too, which is unique within one table only.
fn check_kind(kind: &str, has_children: bool, faults: &mut TableFaults) {
    match kind {
        "r" if has_children => faults.add_lasting("other tables inherit from it".into()),
        "r" => {}
        "p" => faults.add_lasting("it is partitioned".into()),
        _ => faults.add_lasting("it is not an ordinary table".into()),
    }
}

/// Whether a type is the needed one, with whatever precision has milliseconds.
fn fits(data_type: &str, needed: &str) -> bool {
    let precise = |digits: &str| {
        let (name, rest) = needed.split_once(' ').unwrap_or((needed, ""));
        format!("{name}({digits}) {rest}").trim_end() == data_type
    };
    data_type == needed || ["3", "4", "5", "6"].into_iter().any(precise)
}

fn check_type(needed: &Needed, data_type: &str, faults: &mut TableFaults) {
    let (name, wanted) = (quoted(needed.name), needed.data_type);
    let what = format!("its column {name} is {data_type}, not {wanted}");
    let (base, _) = data_type.split_once('(').unwrap_or((data_type, ""));
    let is_text = matches!(base, "text" | "character varying" | "character");
    match needed.name {
        "key" if !data_type.ends_with("[]") => faults.add_lasting(what),
        "value" if is_text => faults.add(
            what,
            format!("ALTER COLUMN {name} TYPE {wanted} USING {name}::{wanted}"),
        ),
        "value" if data_type != "json" => faults.add_lasting(what),
        "created" if !base.starts_with("timestamp") => faults.add_lasting(what),
        "ttl" if !base.starts_with("interval") => faults.add_lasting(what),
        _ => faults.add(what, format!("ALTER COLUMN {name} TYPE {wanted}")),
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
