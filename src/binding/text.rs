//! Text in the two forms that JavaScript engines store strings in. Passing UTF-8
//! takes four times as long, because the engine has to convert it.

use encoding_rs::mem;

pub enum Text {
    Latin1(Vec<u8>),
    Utf16(Vec<u16>),
}

impl Text {
    /// Its size in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Latin1(bytes) => bytes.len(),
            Self::Utf16(units) => 2 * units.len(),
        }
    }

    /// The text as a Rust string. ASCII is not copied.
    pub fn into_string(self) -> String {
        match self {
            Self::Latin1(bytes) => {
                String::from_utf8(bytes).unwrap_or_else(|error| mem::decode_latin1(error.as_bytes()).into_owned())
            }
            Self::Utf16(units) => String::from_utf16_lossy(&units),
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        if text.is_ascii() {
            return Self::Latin1(text.into_bytes());
        }
        if mem::is_str_latin1(&text) {
            return Self::Latin1(mem::encode_latin1_lossy(&text).into_owned());
        }
        // The converter needs room for one unit more than there are bytes.
        let mut units = vec![0; text.len() + 1];
        let length = mem::convert_str_to_utf16(&text, &mut units);
        units.truncate(length);
        Self::Utf16(units)
    }
}

#[cfg(test)]
mod tests {
    use super::Text;

    #[test]
    fn every_plane_comes_through() {
        for text in [
            "",
            "ascii",
            "caf\u{e9}\u{ff}",
            "\u{100}",
            "日本語",
            "😀 a",
            "\u{0}\u{10ffff}",
        ] {
            let back = match Text::from(text) {
                Text::Latin1(bytes) => bytes.into_iter().map(char::from).collect(),
                Text::Utf16(units) => String::from_utf16(&units).unwrap(),
            };
            assert_eq!(back, text);
            assert_eq!(Text::from(text).into_string(), text);
        }
    }
}
