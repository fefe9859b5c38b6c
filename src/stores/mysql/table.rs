//! Creates and drops the table.

use super::connection::Connection;
use super::failure::{Failure, Verdict, verdict};
use super::statements::Statements;
use super::work::Work;
use mysql_async::ServerError;

/// Makes sure that the table and its index exist.
pub struct Create<'a> {
    pub statements: &'a Statements,
    /// Whether a missing table may be created.
    pub creates: bool,
}

impl Work for Create<'_> {
    type Answer = ();

    async fn attempt(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        loop {
            match connection.plain(&self.statements.show_index()).await {
                Ok(true) => return Ok(()),
                Ok(false) if !self.creates => return Ok(()),
                Ok(false) => {}
                Err(Failure::Server(error)) if self.creates && is_missing(&error) => {
                    connection.plain(&self.statements.create_table()).await?;
                }
                Err(failure) => return Err(failure),
            }
            match connection.plain(&self.statements.create_index()).await {
                // Another client has dropped it meanwhile.
                Err(Failure::Server(error)) if is_missing(&error) => {}
                // Another client was first; or the table exists and we may not
                // change it, which only makes sweeps slower.
                Err(Failure::Server(error)) if matches!(error.code, 1061 | 1142) => return Ok(()),
                result => return result.map(drop),
            }
        }
    }
}

fn is_missing(error: &ServerError) -> bool {
    matches!(verdict(error), Verdict::NoTable(_))
}

pub struct Drop<'a> {
    pub statements: &'a Statements,
}

impl Work for Drop<'_> {
    type Answer = ();

    async fn attempt(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        connection.plain(&self.statements.drop_table()).await?;
        Ok(())
    }
}
