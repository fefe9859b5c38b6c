//! Commands and their answers: rows as texts or in binary form, the number of changed
//! rows, prepared statements.

use super::failure::{ServerError, WireError};
use super::wire::{ANSWER_BYTES, Wire, broken};
use bytes::Bytes;
use mysql_common::constants::{CapabilityFlags, ColumnType};
use mysql_common::io::{BufMutExt, ParseBuf};
use mysql_common::packets::{Column, CommonOkPacket, OkPacketDeserializer, StmtPacket};
use mysql_common::proto::{Binary, MyDeserialize, Text};
use mysql_common::row::{Row as Cells, RowDeserializer};
use mysql_common::value::{ServerSide, Value};
use std::sync::Arc;

const QUERY: u8 = 0x03;
const PREPARE: u8 = 0x16;
const EXECUTE: u8 = 0x17;
const CLOSE: u8 = 0x19;

/// The first byte of an answer without rows.
pub const OK: u8 = 0;

/// The first byte of an answer that asks for a file of this machine.
const LOCAL_FILE: u8 = 0xFB;

/// The end of rows and of other lists, which is a short packet.
const END: u8 = 0xFE;
const END_BYTES: usize = 9;

/// No table has more columns.
const MOST_COLUMNS: u64 = 4096;

/// What a client has a server do.
pub struct Command {
    payload: Vec<u8>,
    form: Form,
    /// No more rows are read when these have so many bytes.
    most: usize,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Binary,
    Prepared,
    None,
}

/// A statement that the server has prepared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prepared(u32);

/// A value of a prepared statement.
#[derive(Clone, Copy)]
pub enum Parameter<'a> {
    Null,
    Number(i64),
    Text(&'a [u8]),
}

impl Parameter<'_> {
    fn column_type(self) -> ColumnType {
        match self {
            Self::Null => ColumnType::MYSQL_TYPE_NULL,
            Self::Number(_) => ColumnType::MYSQL_TYPE_LONGLONG,
            Self::Text(_) => ColumnType::MYSQL_TYPE_VAR_STRING,
        }
    }
}

#[derive(Default)]
pub struct Answer {
    pub rows: Vec<Row>,
    /// Whether there are more rows, so that the connection can't be used any longer.
    pub has_more: bool,
    pub prepared: Prepared,
    /// How many rows were changed.
    pub changed: u64,
    pub warnings: u16,
}

impl Command {
    fn new(payload: Vec<u8>, form: Form) -> Self {
        Self {
            payload,
            form,
            most: usize::MAX,
        }
    }

    pub fn query(text: &str) -> Self {
        Self::new([&[QUERY], text.as_bytes()].concat(), Form::Text)
    }

    pub fn prepare(text: &str) -> Self {
        Self::new([&[PREPARE], text.as_bytes()].concat(), Form::Prepared)
    }

    /// Has the server forget a statement. It does not answer.
    pub fn close(Prepared(id): Prepared) -> Self {
        Self::new([&[CLOSE][..], &id.to_le_bytes()].concat(), Form::None)
    }

    pub fn execute(Prepared(id): Prepared, values: &[Parameter<'_>]) -> Self {
        let mut payload = vec![EXECUTE];
        payload.extend_from_slice(&id.to_le_bytes());
        // Without a cursor, once.
        payload.extend_from_slice(&[0, 1, 0, 0, 0]);
        if !values.is_empty() {
            let mut nulls = vec![0_u8; values.len().div_ceil(8)];
            for (index, _) in values
                .iter()
                .enumerate()
                .filter(|(_, value)| matches!(value, Parameter::Null))
            {
                nulls[index / 8] |= 1 << (index % 8);
            }
            payload.extend_from_slice(&nulls);
            // The types follow.
            payload.push(1);
            for value in values {
                payload.extend_from_slice(&[value.column_type() as u8, 0]);
            }
            for value in values {
                match value {
                    Parameter::Null => {}
                    Parameter::Number(number) => payload.extend_from_slice(&number.to_le_bytes()),
                    Parameter::Text(text) => payload.put_lenenc_str(text),
                }
            }
        }
        Self::new(payload, Form::Binary)
    }

    pub fn until(mut self, most: usize) -> Self {
        self.most = most;
        self
    }

    /// Sends the command and reads the answer.
    pub async fn run(self, wire: &mut Wire) -> Result<Answer, WireError> {
        wire.begin(ANSWER_BYTES);
        wire.write(&self.payload).await?;
        drop(self.payload);
        if self.form == Form::None {
            return Ok(Answer::default());
        }
        let first = wire.read().await?;
        if let Some(error) = ServerError::of(&first) {
            return Err(error.into());
        }
        match (first.first(), self.form) {
            (Some(&OK), Form::Prepared) => prepared(wire, &first).await,
            (Some(&OK), _) => changed(&first),
            (Some(&LOCAL_FILE), _) => Err(broken("the server asked for a file of this machine").into()),
            (_, Form::Text) => rows::<Text>(wire, &first, self.most).await,
            (_, Form::Binary) => rows::<Binary>(wire, &first, self.most).await,
            _ => Err(broken("the server's answer is not one to a prepared statement").into()),
        }
    }
}

async fn prepared(wire: &mut Wire, first: &[u8]) -> Result<Answer, WireError> {
    let packet: StmtPacket = ParseBuf(first).parse(())?;
    for count in [packet.num_params(), packet.num_columns()] {
        for _ in 0..count {
            definition(wire).await?;
        }
        if count > 0 {
            end(wire).await?;
        }
    }
    Ok(Answer {
        prepared: Prepared(packet.statement_id()),
        ..Answer::default()
    })
}

/// The answer of a statement that returns no rows.
fn changed(first: &[u8]) -> Result<Answer, WireError> {
    let ok: OkPacketDeserializer<'_, CommonOkPacket> = ParseBuf(first).parse(CapabilityFlags::empty())?;
    let ok = ok.into_inner();
    Ok(Answer {
        changed: ok.affected_rows(),
        warnings: ok.warnings(),
        ..Answer::default()
    })
}

async fn definition(wire: &mut Wire) -> Result<Bytes, WireError> {
    let packet = wire.read().await?;
    ServerError::of(&packet).map_or(Ok(packet), |error| Err(error.into()))
}

fn is_end(packet: &[u8]) -> bool {
    packet.first() == Some(&END) && packet.len() < END_BYTES
}

async fn end(wire: &mut Wire) -> Result<(), WireError> {
    if is_end(&definition(wire).await?) {
        return Ok(());
    }
    Err(broken("the server's answer has too many columns").into())
}

/// Whether `mysql_common` reads values of this type without panicking, whatever their
/// bytes. The store asks for no others.
fn is_readable(column: ColumnType) -> bool {
    use ColumnType as T;
    matches!(
        column,
        T::MYSQL_TYPE_TINY
            | T::MYSQL_TYPE_SHORT
            | T::MYSQL_TYPE_INT24
            | T::MYSQL_TYPE_LONG
            | T::MYSQL_TYPE_LONGLONG
            | T::MYSQL_TYPE_NULL
            | T::MYSQL_TYPE_DECIMAL
            | T::MYSQL_TYPE_NEWDECIMAL
            | T::MYSQL_TYPE_DOUBLE
            | T::MYSQL_TYPE_STRING
            | T::MYSQL_TYPE_VARCHAR
            | T::MYSQL_TYPE_VAR_STRING
            | T::MYSQL_TYPE_TINY_BLOB
            | T::MYSQL_TYPE_BLOB
            | T::MYSQL_TYPE_MEDIUM_BLOB
            | T::MYSQL_TYPE_LONG_BLOB
            | T::MYSQL_TYPE_JSON
    )
}

async fn rows<P>(wire: &mut Wire, first: &[u8], most: usize) -> Result<Answer, WireError>
where
    for<'a> RowDeserializer<ServerSide, P>: MyDeserialize<'a, Ctx = Arc<[Column]>>,
{
    let count = ParseBuf(first).checked_eat_lenenc_int();
    let count = count.filter(|count| (1..=MOST_COLUMNS).contains(count));
    let count = count.ok_or_else(|| broken("the server's answer has no possible number of columns"))?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let column: Column = ParseBuf(&definition(wire).await?).parse(())?;
        if !is_readable(column.column_type()) {
            return Err(broken("the server's answer has values of a type that was not asked for").into());
        }
        columns.push(column);
    }
    end(wire).await?;
    let columns: Arc<[Column]> = columns.into();
    let mut answer = Answer::default();
    let mut bytes = 0;
    loop {
        let packet = definition(wire).await?;
        if is_end(&packet) {
            return Ok(answer);
        }
        let row: RowDeserializer<ServerSide, P> = ParseBuf(&packet).parse(Arc::clone(&columns))?;
        answer.rows.push(Row(row.into_inner()));
        bytes += packet.len();
        if bytes >= most {
            answer.has_more = true;
            return Ok(answer);
        }
    }
}

pub struct Row(Cells);

impl Row {
    /// The bytes in a column; none if it is NULL.
    pub fn bytes(&mut self, column: usize) -> Vec<u8> {
        match self.0.take_opt::<Value, _>(column) {
            Some(Ok(Value::Bytes(bytes))) => bytes,
            _ => Vec::new(),
        }
    }

    /// `None` if it is NULL or no text.
    pub fn text(&mut self, column: usize) -> Option<String> {
        match self.0.take_opt::<Value, _>(column) {
            Some(Ok(Value::Bytes(bytes))) => String::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    pub fn number(&self, column: usize) -> Option<i64> {
        match self.0.as_ref(column) {
            Some(Value::Int(number)) => Some(*number),
            Some(Value::Bytes(digits)) => std::str::from_utf8(digits).ok()?.parse().ok(),
            _ => None,
        }
    }

    pub fn flag(&self, column: usize) -> bool {
        self.number(column) == Some(1)
    }
}
