//! What the catalogue says about the table: whether it can be used, even if another
//! program made it, and which index the statements use.

use super::answer::Row;
use crate::kv::Result;
use crate::stores::table_faults::TableFaults;
use std::collections::BTreeMap;

/// What the statements have to know of a table.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    /// The unique index on the key.
    pub key_index: String,
    /// Whether an index begins with `expires`.
    pub finds_expired: bool,
}

/// A row of the answer.
#[derive(Clone, Debug)]
pub enum Part {
    Table {
        kind: String,
        engine: String,
    },
    Column {
        name: String,
        data_type: String,
        /// With its length and the like, as ALTER TABLE takes it.
        whole_type: String,
        character_set: Option<String>,
        collation: Option<String>,
        /// Digits of a second.
        precision: Option<u32>,
        is_nullable: bool,
        /// Neither nullable nor with a default.
        must_be_given: bool,
        is_primary: bool,
    },
    /// A column of an index.
    Index {
        name: String,
        /// `None` for an expression.
        column: Option<String>,
        kind: String,
        /// Whether only the column's beginning is in it.
        is_prefix: bool,
        is_unique: bool,
        position: u32,
        /// Statements can't use it.
        is_hidden: bool,
    },
}

impl Part {
    /// `None` for rows that are none of these.
    pub fn of(mut row: Row) -> Option<Self> {
        let number = |row: &Row, index| row.number(index)?.try_into().ok();
        let name = row.text(1)?;
        Some(match row.text(0)?.as_str() {
            "table" => Self::Table {
                kind: name,
                engine: row.text(2).unwrap_or_default(),
            },
            "column" => Self::Column {
                name: name.to_ascii_lowercase(),
                data_type: row.text(2)?.to_ascii_lowercase(),
                whole_type: row.text(3)?,
                character_set: row.text(4),
                collation: row.text(5),
                precision: number(&row, 6),
                is_nullable: row.flag(7),
                must_be_given: row.flag(8),
                is_primary: row.flag(9),
            },
            "index" => Self::Index {
                name,
                column: row.text(2).map(|name| name.to_ascii_lowercase()),
                kind: row.text(3)?,
                is_prefix: row.flag(6),
                is_unique: row.flag(7),
                position: number(&row, 8)?,
                is_hidden: row.flag(9),
            },
            _ => return None,
        })
    }
}

/// The query, for a name that needs no escapes. No row if there is no table, or if
/// the user may not know of it.
///
/// All texts are converted: the catalogue's columns have several collations, which
/// UNION can't mix.
pub fn query(table: &str) -> String {
    let here = format!("TABLE_SCHEMA = DATABASE() AND TABLE_NAME = '{table}'");
    let text = |column: &str| format!("CONVERT({column} USING utf8mb4)");
    format!(
        "SELECT 'table', {}, {}, NULL, NULL, NULL, NULL, 0, 0, 0 FROM information_schema.TABLES WHERE {here} \
        UNION ALL SELECT 'column', {}, {}, {}, {}, {}, DATETIME_PRECISION, IS_NULLABLE = 'YES', \
        IS_NULLABLE = 'NO' AND COLUMN_DEFAULT IS NULL AND DATA_TYPE <> 'enum' \
        AND EXTRA NOT LIKE '%auto_increment%' AND EXTRA NOT LIKE '%GENERATED%', COLUMN_KEY = 'PRI' \
        FROM information_schema.COLUMNS WHERE {here} \
        UNION ALL SELECT 'index', {}, {}, {}, NULL, NULL, SUB_PART IS NOT NULL, NON_UNIQUE = 0, SEQ_IN_INDEX, \
        0 /*M! + (IGNORED = 'YES') */ /*!80000 + (IS_VISIBLE = 'NO') */ \
        FROM information_schema.STATISTICS WHERE {here}",
        text("TABLE_TYPE"),
        text("ENGINE"),
        text("COLUMN_NAME"),
        text("DATA_TYPE"),
        text("COLUMN_TYPE"),
        text("CHARACTER_SET_NAME"),
        text("COLLATION_NAME"),
        text("INDEX_NAME"),
        text("COLUMN_NAME"),
        text("INDEX_TYPE"),
    )
}

/// Engines without transactions.
const UNSAFE: [&str; 8] = [
    "myisam",
    "mrg_myisam",
    "aria",
    "memory",
    "csv",
    "archive",
    "blackhole",
    "federated",
];

/// What mends a column, as the official package defines it.
const KEY: &str = "MODIFY `key` VARCHAR(768) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL";
const VALUE: &str = "MODIFY `value` JSON NOT NULL";
const EXPIRES: &str = "`expires` DATETIME(6) NULL DEFAULT NULL";

/// The layout of a table on which the store keeps its promises: keys are equal only
/// if their bytes are, and times are exact to the millisecond. `None` if there is
/// no table.
///
/// # Errors
///
/// [`Error::Backend`](crate::kv::Error::Backend) with the statement that mends it.
pub fn layout(table: &str, parts: &[Part]) -> Result<Option<Layout>> {
    if parts.is_empty() {
        return Ok(None);
    }
    let mut faults = TableFaults::default();
    let mut found = Vec::new();
    let mut indexes: BTreeMap<&str, Vec<&Part>> = BTreeMap::new();
    for part in parts {
        match part {
            Part::Table { kind, engine } => check_kind(kind, engine, &mut faults),
            Part::Column { name, .. } => {
                found.push(name.as_str());
                check_column(part, &mut faults);
            }
            Part::Index { name, .. } => indexes.entry(name).or_default().push(part),
        }
    }
    for (needed, mend) in [("key", None), ("value", None), ("expires", Some(EXPIRES))] {
        if !found.contains(&needed) {
            let what = format!("it has no column `{needed}`");
            match mend {
                None => faults.add_lasting(what),
                Some(column) => faults.add(what, format!("ADD COLUMN {column}")),
            }
        }
    }
    let key_index = check_indexes(&indexes, &mut faults);
    let finds_expired = parts.iter().any(|part| {
        matches!(part, Part::Index { column: Some(column), position: 1, is_hidden: false, .. } if column == "expires")
    });
    let shown = format!("`{table}`");
    faults.check(&shown, |parts| format!("ALTER TABLE {shown} {}", parts.join(", ")))?;
    Ok(Some(Layout {
        key_index: key_index.unwrap_or_default(),
        finds_expired,
    }))
}

fn check_kind(kind: &str, engine: &str, faults: &mut TableFaults) {
    // The other kind of table is MariaDB's SYSTEM VERSIONED.
    if kind.contains("VIEW") || kind == "SEQUENCE" {
        faults.add_lasting(format!("it is a {}", kind.to_ascii_lowercase()));
    } else if UNSAFE.contains(&engine.to_ascii_lowercase().as_str()) {
        faults.add(format!("its engine {engine} has no transactions"), "ENGINE=InnoDB");
    }
}

fn check_column(part: &Part, faults: &mut TableFaults) {
    let Part::Column {
        name,
        data_type,
        whole_type,
        character_set,
        collation,
        precision,
        is_nullable,
        must_be_given,
        is_primary,
    } = part
    else {
        return;
    };
    let data_type = data_type.as_str();
    let is_utf8 = character_set.as_ref().is_none_or(|set| set == "utf8mb4");
    match name.as_str() {
        "key" => {
            let is_binary = match data_type {
                "varbinary" => true,
                "varchar" | "char" => {
                    is_utf8 && collation.as_ref().is_some_and(|collation| collation.ends_with("_bin"))
                }
                _ => false,
            };
            if !is_binary {
                let shown = collation
                    .as_ref()
                    .map(|collation| format!(" with the collation {collation}"));
                faults.add(
                    format!(
                        "its column `key` is {whole_type}{}, not VARCHAR with the collation utf8mb4_bin",
                        shown.unwrap_or_default()
                    ),
                    KEY,
                );
            }
        }
        "value" => {
            let is_text = ["text", "blob", "varchar", "varbinary"]
                .iter()
                .any(|end| data_type.ends_with(end));
            if !(data_type == "json" || is_text && is_utf8) {
                let shown = character_set.as_ref().map(|set| format!(" in {set}"));
                faults.add(
                    format!(
                        "its column `value` is {whole_type}{}, not JSON",
                        shown.unwrap_or_default()
                    ),
                    VALUE,
                );
            }
        }
        "expires" => {
            let is_time = matches!(data_type, "datetime" | "timestamp");
            let mend = format!("MODIFY {EXPIRES}");
            if !is_time || precision.is_none_or(|digits| digits < 3) {
                let what = format!("its column `expires` is {whole_type}, which has no milliseconds");
                faults.add(what, mend);
            } else if !is_nullable {
                faults.add("its column `expires` is NOT NULL".into(), mend);
            }
        }
        _ if *must_be_given => {
            let what = format!("its column `{name}` has neither a default nor NULLs");
            let quoted = name.replace('`', "``");
            if !is_primary {
                let words = match (character_set, collation) {
                    (Some(set), Some(collation)) => format!(" CHARACTER SET {set} COLLATE {collation}"),
                    _ => String::new(),
                };
                faults.add(what, format!("MODIFY `{quoted}` {whole_type}{words} NULL"));
            } else if data_type.ends_with("int") {
                faults.add(what, format!("MODIFY `{quoted}` {whole_type} NOT NULL AUTO_INCREMENT"));
            } else {
                faults.add_lasting(what);
            }
        }
        _ => {}
    }
}

/// The name of the unique index on the key. No other unique index may be met by
/// two keys: a write would change the wrong entry, because ON DUPLICATE KEY UPDATE
/// means any of them.
fn check_indexes(indexes: &BTreeMap<&str, Vec<&Part>>, faults: &mut TableFaults) -> Option<String> {
    let mut key_index = None;
    for (name, parts) in indexes {
        let has_whole_key = parts
            .iter()
            .any(|part| matches!(part, Part::Index { column: Some(column), is_prefix: false, .. } if column == "key"));
        let Some(Part::Index {
            kind,
            is_unique: true,
            is_hidden,
            ..
        }) = parts.first()
        else {
            continue;
        };
        if has_whole_key {
            if parts.len() == 1 && kind == "BTREE" && !is_hidden {
                key_index.get_or_insert((*name).to_owned());
            }
            continue;
        }
        let is_ours = |part: &&&Part| match part {
            Part::Index { column, .. } => column
                .as_deref()
                .is_none_or(|column| matches!(column, "key" | "value" | "expires")),
            _ => false,
        };
        if let Some(Part::Index { column, .. }) = parts.iter().find(is_ours) {
            let quoted = name.replace('`', "``");
            let of = column
                .as_ref()
                .map_or_else(|| "an expression".into(), |column| format!("a part of `{column}`"));
            faults.add(
                format!("its unique index `{quoted}` on {of} takes different entries for the same"),
                format!("DROP INDEX `{quoted}`"),
            );
        }
    }
    if key_index.is_none() {
        let what = "it has no unique index on the whole column `key` alone";
        faults.add(what.into(), "ADD UNIQUE KEY (`key`)");
    }
    key_index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, whole_type: &str, collation: Option<&str>) -> Part {
        let (data_type, rest) = whole_type.split_once('(').unwrap_or((whole_type, ""));
        Part::Column {
            name: name.into(),
            data_type: data_type.into(),
            whole_type: whole_type.into(),
            character_set: collation.map(|name| name.split('_').next().unwrap_or_default().into()),
            collation: collation.map(Into::into),
            precision: data_type
                .contains("time")
                .then(|| rest.trim_end_matches(')').parse().unwrap_or(0)),
            is_nullable: true,
            must_be_given: false,
            is_primary: false,
        }
    }

    fn index(name: &str, column: &str) -> Part {
        Part::Index {
            name: name.into(),
            column: Some(column.into()),
            kind: "BTREE".into(),
            is_prefix: false,
            is_unique: true,
            position: 1,
            is_hidden: false,
        }
    }

    /// A table as we create it, with other parts in place of some.
    fn table(others: &[Part]) -> Vec<Part> {
        let name = |part: &Part| match part {
            Part::Table { .. } => "(table)".to_owned(),
            Part::Column { name, .. } => name.clone(),
            Part::Index { name, .. } => format!("index {name}"),
        };
        let mut parts = vec![
            Part::Table {
                kind: "BASE TABLE".into(),
                engine: "InnoDB".into(),
            },
            column("key", "varchar(768)", Some("utf8mb4_bin")),
            column("value", "json", None),
            column("expires", "datetime(6)", None),
            index("PRIMARY", "key"),
        ];
        parts.retain(|part| !others.iter().any(|other| name(other) == name(part)));
        parts.extend_from_slice(others);
        parts
    }

    fn refusal(others: &[Part]) -> String {
        layout("t", &table(others)).unwrap_err().to_string()
    }

    #[test]
    fn the_index_is_found_by_its_column() {
        let found = |others: &[Part]| layout("t", &table(others)).unwrap().unwrap().key_index;
        assert_eq!(found(&[]), "PRIMARY");
        assert_eq!(found(&[index("PRIMARY", "id"), index("k", "key")]), "k");
        assert_eq!(layout("t", &[]), Ok(None));
    }

    #[test]
    fn types_that_keep_entries_exact_are_good() {
        for good in [
            column("key", "varbinary(3072)", None),
            column("key", "char(64)", Some("utf8mb4_0900_bin")),
            column("key", "varchar(255)", Some("utf8mb4_nopad_bin")),
            column("value", "longtext", Some("utf8mb4_general_ci")),
            column("value", "mediumblob", None),
            column("expires", "timestamp(3)", None),
        ] {
            let found = layout("t", &table(&[good]));
            assert!(found.is_ok(), "{found:?}");
        }
    }

    #[test]
    fn other_types_are_refused_with_what_mends_them() {
        for (bad, mend) in [
            (column("key", "varchar(768)", Some("utf8mb4_0900_ai_ci")), KEY),
            (column("key", "varchar(768)", Some("utf8mb4_0900_as_cs")), KEY),
            (column("key", "varchar(255)", Some("latin1_bin")), KEY),
            (column("key", "text", Some("utf8mb4_bin")), KEY),
            (column("key", "binary(255)", None), KEY),
            (column("key", "int(11)", None), KEY),
            (column("value", "text", Some("latin1_swedish_ci")), VALUE),
            (column("value", "int(11)", None), VALUE),
            (column("expires", "datetime", None), EXPIRES),
            (column("expires", "timestamp(2)", None), EXPIRES),
            (column("expires", "bigint(20)", None), EXPIRES),
        ] {
            let told = refusal(&[bad]);
            assert!(told.contains("To mend it, run: ALTER TABLE `t` MODIFY `"), "{told}");
            assert!(told.ends_with(mend), "{told}");
        }
        let told = refusal(&[Part::Table {
            kind: "BASE TABLE".into(),
            engine: "MyISAM".into(),
        }]);
        assert!(told.ends_with("ALTER TABLE `t` ENGINE=InnoDB"), "{told}");
        let told = refusal(&[Part::Table {
            kind: "VIEW".into(),
            engine: String::new(),
        }]);
        assert!(told.ends_with("it is a view. Choose another tableName"), "{told}");
    }

    #[test]
    fn only_a_plain_unique_index_will_do() {
        let with = |change: fn(&mut Part)| {
            let mut part = index("PRIMARY", "key");
            change(&mut part);
            refusal(&[part])
        };
        let told = [
            with(|part| {
                if let Part::Index { is_unique, .. } = part {
                    *is_unique = false;
                }
            }),
            with(|part| {
                if let Part::Index { is_prefix, .. } = part {
                    *is_prefix = true;
                }
            }),
            with(|part| {
                if let Part::Index { kind, .. } = part {
                    *kind = "HASH".into();
                }
            }),
            with(|part| {
                if let Part::Index { is_hidden, .. } = part {
                    *is_hidden = true;
                }
            }),
            refusal(&[index("PRIMARY", "key"), index("PRIMARY", "more")]),
        ];
        for told in told {
            assert!(told.ends_with("ADD UNIQUE KEY (`key`)"), "{told}");
        }
        for other in ["value", "expires"] {
            let told = refusal(&[index("other", other)]);
            assert!(told.ends_with("ALTER TABLE `t` DROP INDEX `other`"), "{told}");
        }
        assert!(layout("t", &table(&[index("other", "id")])).is_ok());
    }
}
