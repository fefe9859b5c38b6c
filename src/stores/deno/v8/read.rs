//! From V8's bytes to JSON text.

use super::date::Date;
use super::{VERSIONS, tag};
use std::fmt::Write as _;
use std::rc::Rc;

/// The longest JSON text. A value may refer to one of its objects from many
/// places, and each of them repeats the object's text in JSON.
const MOST_TEXT: usize = 16 * 1024 * 1024;

/// Why bytes could not be read, in words that can follow "it is".
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable(pub &'static str);

type Result<T> = std::result::Result<T, Unreadable>;

const DAMAGED: Unreadable = Unreadable("not a V8 serialization");

/// What `JSON.stringify` returns for the value; `None` for `undefined`.
///
/// Works without recursion, because values may be nested to any depth.
///
/// # Errors
///
/// [`Unreadable`] for bytes that are not a value, and for values whose content
/// JSON has no form for: BigInts, Maps, Sets, binary data, cycles and the like.
pub fn to_json(bytes: &[u8]) -> Result<Option<String>> {
    let mut reader = Reader {
        bytes,
        at: 0,
        out: String::with_capacity(bytes.len() + 16),
        open: Vec::new(),
        objects: Vec::new(),
    };
    if reader.byte()? != tag::VERSION || !VERSIONS.contains(&reader.varint()?) {
        return Err(DAMAGED);
    }
    let read = reader.value()?;
    while !reader.open.is_empty() {
        reader.step()?;
    }
    while reader.at < bytes.len() {
        if reader.byte()? != tag::PADDING {
            return Err(DAMAGED);
        }
    }
    Ok((read == Read::Text).then_some(reader.out))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    out: String,
    open: Vec<Open>,
    /// Each object's text, by the number that references have for it.
    objects: Vec<Text>,
}

/// Where an object's text is in the output.
#[derive(Clone)]
enum Text {
    /// It started there and has not ended.
    From(usize),
    Whole(usize, usize),
    /// It was part of something that JSON leaves out, and is in this text.
    Aside(Rc<str>, usize, usize),
}

/// A container that is being read.
struct Open {
    id: usize,
    kind: Kind,
    /// How many members were read.
    read: u32,
    /// Whether the output has one.
    some: bool,
    /// Where to truncate the output: JSON leaves out what was read after it.
    cut: Option<usize>,
}

#[derive(Clone, Copy)]
enum Kind {
    Object,
    Dense {
        length: u32,
    },
    /// `next` is the index of the next element in the output.
    Sparse {
        length: u32,
        next: u32,
    },
}

#[derive(PartialEq, Eq)]
enum Read {
    Text,
    Nothing,
}

impl Reader<'_> {
    /// Reads the next member of the innermost container, or its end.
    fn step(&mut self) -> Result<()> {
        let Some(open) = self.open.last_mut() else {
            return Ok(());
        };
        if let Some(length) = open.cut.take() {
            self.cut_off(length);
        }
        let open = self.open.last_mut().ok_or(DAMAGED)?;
        match open.kind {
            Kind::Object => self.object_step(),
            Kind::Dense { length } if open.read < length => {
                open.read += 1;
                self.comma()?;
                self.element()
            }
            Kind::Dense { length } => self.array_extra(tag::DENSE_ARRAY_END, length, 0),
            Kind::Sparse { length, next } => self.array_extra(tag::SPARSE_ARRAY_END, length, next),
        }
    }

    fn object_step(&mut self) -> Result<()> {
        if self.peek()? == tag::OBJECT_END {
            self.at += 1;
            let count = self.varint()?;
            let open = self.open.pop().ok_or(DAMAGED)?;
            if open.read != count {
                return Err(DAMAGED);
            }
            self.out.push('}');
            return self.end(open.id);
        }
        self.open.last_mut().ok_or(DAMAGED)?.read += 1;
        let before = self.out.len();
        let had_some = self.open.last().is_some_and(|open| open.some);
        self.comma()?;
        self.name()?;
        self.out.push(':');
        if self.value()? == Read::Nothing {
            self.out.truncate(before);
            if let Some(open) = self.open.last_mut() {
                open.some = had_some;
            }
        }
        Ok(())
    }

    /// What follows the elements of an array: properties, which JSON leaves out.
    /// In a sparse array, its elements are among them.
    fn array_extra(&mut self, end: u8, length: u32, next: u32) -> Result<()> {
        if self.peek()? == end {
            self.at += 1;
            self.varint()?;
            if self.varint()? != length {
                return Err(DAMAGED);
            }
            let sparse = end == tag::SPARSE_ARRAY_END;
            for _ in if sparse { next..length } else { 0..0 } {
                self.comma()?;
                self.push("null")?;
            }
            let open = self.open.pop().ok_or(DAMAGED)?;
            self.out.push(']');
            return self.end(open.id);
        }
        let before = self.out.len();
        self.name()?;
        let index = self.out[before..].trim_matches('"').parse::<u32>().ok();
        self.out.truncate(before);
        let sparse = end == tag::SPARSE_ARRAY_END;
        if let Some(index) = index.filter(|index| sparse && (next..length).contains(index)) {
            for _ in next..index {
                self.comma()?;
                self.push("null")?;
            }
            self.comma()?;
            if let Some(open) = self.open.last_mut() {
                open.kind = Kind::Sparse {
                    length,
                    next: index + 1,
                };
            }
            return self.element();
        }
        let depth = self.open.len();
        self.value()?;
        if self.open.len() == depth {
            self.cut_off(before);
        } else {
            self.open[depth - 1].cut = Some(before);
        }
        Ok(())
    }

    /// Forgets what was written from `length` on.
    fn cut_off(&mut self, length: usize) {
        let aside: Rc<str> = self.out[length..].into();
        self.out.truncate(length);
        // The objects that began in this text ended in it, and are the last ones.
        for text in self.objects.iter_mut().rev() {
            match text {
                Text::Whole(start, end) if *start >= length => {
                    *text = Text::Aside(Rc::clone(&aside), *start - length, *end - length);
                }
                Text::Aside(..) => {}
                Text::Whole(..) | Text::From(_) => break,
            }
        }
    }

    fn element(&mut self) -> Result<()> {
        if self.peek()? == tag::HOLE {
            self.at += 1;
            return self.push("null");
        }
        match self.value()? {
            Read::Text => Ok(()),
            Read::Nothing => self.push("null"),
        }
    }

    /// A comma, if the innermost container has a member already.
    fn comma(&mut self) -> Result<()> {
        let open = self.open.last_mut().ok_or(DAMAGED)?;
        if std::mem::replace(&mut open.some, true) {
            self.out.push(',');
        }
        Ok(())
    }

    /// A property's name, as a JSON string.
    fn name(&mut self) -> Result<()> {
        self.peek()?;
        match self.byte()? {
            tag::INT32 => {
                let number = self.zigzag()?;
                self.push_display(format_args!("\"{number}\""))
            }
            tag::UINT32 => {
                let number = self.varint()?;
                self.push_display(format_args!("\"{number}\""))
            }
            tag::DOUBLE => {
                let number = self.double()?;
                self.push_display(format_args!("\"{number}\""))
            }
            string => self.string(string),
        }
    }

    /// Reads one value. Of a container it reads only the beginning; `step` reads
    /// the rest.
    fn value(&mut self) -> Result<Read> {
        self.peek()?;
        match self.byte()? {
            tag::UNDEFINED => return Ok(Read::Nothing),
            tag::NULL => self.push("null")?,
            tag::TRUE => self.push("true")?,
            tag::FALSE => self.push("false")?,
            tag::INT32 => {
                let number = self.zigzag()?;
                self.push_display(format_args!("{number}"))?;
            }
            tag::UINT32 => {
                let number = self.varint()?;
                self.push_display(format_args!("{number}"))?;
            }
            tag::DOUBLE => {
                let number = self.double()?;
                self.number(number)?;
            }
            tag::REFERENCE => self.reference()?,
            tag::OBJECT => self.open(Kind::Object, '{'),
            tag::DENSE_ARRAY => {
                let length = self.varint()?;
                self.open(Kind::Dense { length }, '[');
            }
            tag::SPARSE_ARRAY => {
                let length = self.varint()?;
                self.open(Kind::Sparse { length, next: 0 }, '[');
            }
            tag::DATE => {
                let millis = self.double()?;
                self.object(|it| it.date(millis))?;
            }
            tag::TRUE_OBJECT => self.object(|it| it.push("true"))?,
            tag::FALSE_OBJECT => self.object(|it| it.push("false"))?,
            tag::NUMBER_OBJECT => {
                let number = self.double()?;
                self.object(|it| it.number(number))?;
            }
            tag::STRING_OBJECT => self.object(|it| {
                it.peek()?;
                let string = it.byte()?;
                it.string(string)
            })?,
            b'Z' | b'z' => return Err(Unreadable("a BigInt, which has no JSON form")),
            b';' => return Err(Unreadable("a Map, which has no JSON form")),
            b'\'' => return Err(Unreadable("a Set, which has no JSON form")),
            b'B' | b'~' | b'V' => return Err(Unreadable("binary data, which has no JSON form")),
            b'R' => return Err(Unreadable("a regular expression, which has no JSON form")),
            b'r' => return Err(Unreadable("an Error, which has no JSON form")),
            string => self.string(string)?,
        }
        Ok(Read::Text)
    }

    fn open(&mut self, kind: Kind, bracket: char) {
        self.objects.push(Text::From(self.out.len()));
        self.open.push(Open {
            id: self.objects.len() - 1,
            kind,
            read: 0,
            some: false,
            cut: None,
        });
        self.out.push(bracket);
    }

    /// An object that is no container.
    fn object(&mut self, write: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let id = self.objects.len();
        self.objects.push(Text::From(self.out.len()));
        write(self)?;
        self.end(id)
    }

    fn end(&mut self, id: usize) -> Result<()> {
        let Text::From(start) = self.objects[id] else {
            return Err(DAMAGED);
        };
        self.objects[id] = Text::Whole(start, self.out.len());
        Ok(())
    }

    fn reference(&mut self) -> Result<()> {
        let id = self.varint()? as usize;
        match self.objects.get(id).cloned() {
            Some(Text::Whole(start, end)) => {
                self.room_for(end - start)?;
                self.out.extend_from_within(start..end);
                Ok(())
            }
            Some(Text::Aside(text, start, end)) => self.push(&text[start..end]),
            Some(Text::From(_)) => Err(Unreadable("a cycle, which has no JSON form")),
            None => Err(DAMAGED),
        }
    }

    fn number(&mut self, number: f64) -> Result<()> {
        if number.is_finite() {
            // Adding zero turns -0 into 0, as JSON.stringify does.
            self.push_display(format_args!("{:e}", number + 0.0))
        } else {
            self.push("null")
        }
    }

    /// As `Date.prototype.toJSON` writes it.
    fn date(&mut self, millis: f64) -> Result<()> {
        match Date::of(millis) {
            Some(date) => self.push_display(format_args!("\"{date}\"")),
            None => self.push("null"),
        }
    }

    /// A string, given its tag.
    fn string(&mut self, tag: u8) -> Result<()> {
        let bytes = match tag {
            tag::ONE_BYTE_STRING | tag::TWO_BYTE_STRING | tag::UTF8_STRING => {
                let length = self.varint()? as usize;
                self.take(length)?
            }
            _ => return Err(DAMAGED),
        };
        self.out.push('"');
        match tag {
            tag::ONE_BYTE_STRING if bytes.is_ascii() => {
                self.text(std::str::from_utf8(bytes).map_err(|_| DAMAGED)?);
            }
            tag::ONE_BYTE_STRING => bytes.iter().for_each(|byte| self.char(char::from(*byte))),
            tag::UTF8_STRING => self.text(std::str::from_utf8(bytes).map_err(|_| DAMAGED)?),
            _ => {
                let (units, []) = bytes.as_chunks::<2>() else {
                    return Err(DAMAGED);
                };
                let units = units.iter().map(|unit| u16::from_ne_bytes(*unit));
                for char in char::decode_utf16(units) {
                    match char {
                        Ok(char) => self.char(char),
                        Err(lone) => {
                            self.push_display(format_args!("\\u{:04x}", lone.unpaired_surrogate()))?;
                        }
                    }
                }
            }
        }
        self.out.push('"');
        self.room_for(0)
    }

    fn text(&mut self, text: &str) {
        if text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
            text.chars().for_each(|char| self.char(char));
        } else {
            self.out.push_str(text);
        }
    }

    fn char(&mut self, char: char) {
        match char {
            '"' | '\\' => self.out.extend(['\\', char]),
            '\0'..='\x1f' => {
                // Writing to a string cannot fail.
                let _ = write!(self.out, "\\u{:04x}", u32::from(char));
            }
            _ => self.out.push(char),
        }
    }

    fn push(&mut self, text: &str) -> Result<()> {
        self.room_for(text.len())?;
        self.out.push_str(text);
        Ok(())
    }

    fn push_display(&mut self, text: std::fmt::Arguments<'_>) -> Result<()> {
        // Writing to a string cannot fail.
        let _ = self.out.write_fmt(text);
        self.room_for(0)
    }

    fn room_for(&self, more: usize) -> Result<()> {
        if self.out.len() + more > MOST_TEXT {
            return Err(Unreadable("too large as JSON"));
        }
        Ok(())
    }

    /// Skips padding and returns the next byte, without taking it.
    fn peek(&mut self) -> Result<u8> {
        loop {
            match self.bytes.get(self.at) {
                Some(&tag::PADDING) => self.at += 1,
                Some(&tag::OBJECT_COUNT) => {
                    self.at += 1;
                    self.varint()?;
                }
                Some(byte) => return Ok(*byte),
                None => return Err(DAMAGED),
            }
        }
    }

    fn byte(&mut self) -> Result<u8> {
        let byte = self.bytes.get(self.at).ok_or(DAMAGED)?;
        self.at += 1;
        Ok(*byte)
    }

    fn varint(&mut self) -> Result<u32> {
        let mut number = 0;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return u32::try_from(number).map_err(|_| DAMAGED);
            }
        }
        Err(DAMAGED)
    }

    fn zigzag(&mut self) -> Result<i32> {
        let number = self.varint()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    fn double(&mut self) -> Result<f64> {
        let (bytes, _) = self.bytes[self.at..].split_first_chunk().ok_or(DAMAGED)?;
        self.at += bytes.len();
        Ok(f64::from_ne_bytes(*bytes))
    }
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (bytes, _) = self.bytes[self.at..].split_at_checked(length).ok_or(DAMAGED)?;
        self.at += length;
        Ok(bytes)
    }
}
