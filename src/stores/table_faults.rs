//! Why a table that another program made can't be used, and what mends it.
//! Engines read their catalogues and decide; the message is the same for all.

use crate::kv::{Error, Result};

/// What is wrong with a table.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TableFaults {
    what: Vec<String>,
    /// Parts of the statement that mends all of it, in the order in which they are
    /// to run; none if something can't be mended.
    mends: Option<Vec<String>>,
}

impl TableFaults {
    /// A fault, and what mends it.
    pub fn add(&mut self, what: String, mend: impl Into<String>) {
        let mend = mend.into();
        let is_first = self.what.is_empty();
        self.what.push(what);
        if is_first {
            self.mends = Some(vec![mend]);
        } else if let Some(mends) = &mut self.mends
            && !mends.contains(&mend)
        {
            mends.push(mend);
        }
    }

    /// A fault that no statement of ours can mend.
    pub fn add_lasting(&mut self, what: String) {
        self.what.push(what);
        self.mends = None;
    }

    /// # Errors
    ///
    /// [`Error::Backend`] if there are faults. `statement` makes one statement of
    /// the parts.
    pub fn check(self, table: &str, statement: impl FnOnce(&[String]) -> String) -> Result<()> {
        if self.what.is_empty() {
            return Ok(());
        }
        let advice = match &self.mends {
            Some(mends) => format!("To mend it, run: {}", statement(mends)),
            None => "Choose another tableName".into(),
        };
        Err(Error::Backend(format!(
            "the table {table} can't be used: {}. {advice}",
            self.what.join("; ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_all_faults_and_each_mend_once() {
        let told = |faults: TableFaults| faults.check("t", |parts| parts.join(", ")).unwrap_err().to_string();
        let mut faults = TableFaults::default();
        faults.add("a is b".into(), "x");
        faults.add("c is d".into(), "y");
        faults.add("e is f".into(), "x");
        assert_eq!(
            told(faults),
            "the table t can't be used: a is b; c is d; e is f. To mend it, run: x, y"
        );
        let mut faults = TableFaults::default();
        faults.add("a is b".into(), "x");
        faults.add_lasting("it is a view".into());
        faults.add("c is d".into(), "y");
        assert_eq!(
            told(faults),
            "the table t can't be used: a is b; it is a view; c is d. Choose another tableName"
        );
        assert_eq!(TableFaults::default().check("t", |_| String::new()), Ok(()));
    }
}
