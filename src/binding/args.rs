//! Argument types that parse themselves. A method body never validates.

use super::guard::guard;
use super::intrinsics::Length;
use super::js::{Js, NotText, Ref, Value};
use super::list::Request;
use super::options::whole;
use crate::kv::{Error, JsonText, Key, KeyBuilder, Lifetime, PageLimits, Prefix, Result, Ttl};
use crate::stores::trimmed;
use jiff::civil::DateTime;
use jiff::{Span, Timestamp};
use napi::ValueType;
use napi::bindgen_prelude::{FromNapiValue, TypeName, ValidateNapiValue, sys};

/// The largest page that a caller may ask for. While a page is read, its text
/// and its objects are in memory at the same time.
const MOST_PAGE_ENTRIES: u32 = 1024;

/// A type that can be parsed from a JavaScript value.
pub trait Parse: Sized {
    fn parse(js: Js, value: Value) -> Result<Self>;
}

/// A parsed argument, or why it is invalid. Reading the arguments never throws:
/// the method rejects with the error.
pub struct Arg<T>(pub Result<T>);

impl<T: Parse> FromNapiValue for Arg<T> {
    unsafe fn from_napi_value(env: sys::napi_env, value: sys::napi_value) -> napi::Result<Self> {
        // SAFETY: arguments are read in a callback of the environment.
        let js = unsafe { Js::new(env) };
        let internal = || Err(Error::Backend("internal error while reading an argument".into()));
        Ok(Self(guard(|| T::parse(js, value)).unwrap_or_else(internal)))
    }
}

impl<T> TypeName for Arg<T> {
    fn type_name() -> &'static str {
        "unknown"
    }
    fn value_type() -> ValueType {
        ValueType::Unknown
    }
}

impl<T: Parse> ValidateNapiValue for Arg<T> {}

impl Parse for Key {
    fn parse(js: Js, value: Value) -> Result<Self> {
        parts(js, value)?.key()
    }
}

fn parts(js: Js, value: Value) -> Result<KeyBuilder> {
    match array(js, value)? {
        Some(array) => parts_of(js, array),
        None => Err(Error::InvalidKey(format!(
            "it must be an array of strings, not {}",
            js.kind(value)
        ))),
    }
}

/// The array itself, or the copy of a proxied one.
fn array(js: Js, value: Value) -> Result<Option<Value>> {
    js.array_of_strings(value).map_err(|thrown| Error::InvalidKey(thrown.0))
}

fn parts_of(js: Js, array: Value) -> Result<KeyBuilder> {
    let mut parts = KeyBuilder::default();
    for index in 0..js.length(array) {
        let part = js.element_given(array, index);
        js.with_text(part, |part| parts.push(part)).map_err(|why| {
            Error::InvalidKey(match why {
                NotText::NotString => format!("part {index} must be a string, not {}", js.kind(part)),
                NotText::LoneSurrogate => format!("part {index} has a lone surrogate, which UTF-8 can't encode"),
            })
        })?;
    }
    Ok(parts)
}

/// A prefix that is not empty.
pub struct ClearPrefix(pub Prefix);

impl Parse for ClearPrefix {
    fn parse(js: Js, value: Value) -> Result<Self> {
        let prefix = parts(js, value)?.prefix();
        if prefix == Prefix::ALL {
            return Err(Error::InvalidKey(
                "clear() needs a prefix of at least one part; drop() deletes everything".into(),
            ));
        }
        Ok(Self(prefix))
    }
}

/// A value; `None` for `undefined`.
pub struct Json(pub Option<JsonText>);

impl Parse for Json {
    fn parse(js: Js, value: Value) -> Result<Self> {
        if js.is_undefined(value) {
            return Ok(Self(None));
        }
        let text = js.stringify(value).map_err(|thrown| Error::InvalidValue(thrown.0))?;
        match js.to_text(text) {
            Ok(text) => Ok(Self(Some(JsonText::new(text)))),
            Err(_) => Err(Error::InvalidValue(
                "JSON.stringify() returns undefined for it, as for functions and symbols".into(),
            )),
        }
    }
}

/// The options of `set` and `cas`.
pub struct SetOptions(pub Lifetime);

impl Parse for SetOptions {
    fn parse(js: Js, value: Value) -> Result<Self> {
        if js.is_nullish(value) {
            return Ok(Self(Lifetime::Unlimited));
        }
        if !js.is_object(value) {
            return Err(Error::InvalidOption(format!(
                "the options must be an object such as {{ ttl: {{ hours: 1 }} }}, not {}",
                js.kind(value)
            )));
        }
        let length = js.ttl(value).map_err(|thrown| Error::InvalidTtl(thrown.0))?;
        let millis = match length {
            None => return Ok(Self(Lifetime::Unlimited)),
            Some(Length::Millis(millis)) => millis,
            Some(Length::Calendar { years, months, millis }) => months_millis(years, months)? + millis,
        };
        Ok(Self(Ttl::from_millis(millis).map_or(Lifetime::Over, Lifetime::For)))
    }
}

/// The length of some years and months, counted from now.
fn months_millis(years: f64, months: f64) -> Result<f64> {
    if years.fract() != 0.0 || months.fract() != 0.0 {
        return Err(Error::InvalidTtl("years and months must be whole numbers".into()));
    }
    let now: DateTime = jiff::tz::TimeZone::UTC.to_datetime(Timestamp::now());
    #[expect(clippy::cast_possible_truncation, reason = "it saturates, and then is out of range")]
    let span = Span::new()
        .try_years(years as i64)
        .and_then(|span| span.try_months(months as i64));
    let later = span.and_then(|span| now.checked_add(span));
    let later = later.map_err(|error| Error::InvalidTtl(format!("years or months are out of range: {error}")))?;
    Ok(now.duration_until(later).as_secs_f64() * 1000.0)
}

impl Parse for Request {
    fn parse(js: Js, value: Value) -> Result<Self> {
        let mut request = Self {
            prefix: Prefix::ALL,
            limits: PageLimits::default(),
            signal: None,
        };
        if js.is_nullish(value) {
            return Ok(request);
        }
        if let Some(array) = array(js, value)? {
            request.prefix = parts_of(js, array)?.prefix();
            return Ok(request);
        }
        if !js.is_object(value) {
            return Err(Error::InvalidKey(format!(
                "list() takes a prefix (an array of strings) or an object with options, not {}",
                js.kind(value)
            )));
        }
        let option = |name| {
            js.get(value, name)
                .map_err(|thrown| Error::InvalidOption(format!("{name} can't be read: {}", thrown.0)))
        };
        let prefix = option("prefix")?;
        if !js.is_nullish(prefix) {
            request.prefix = parts(js, prefix)?.prefix();
        }
        let page_size = option("pageSize")?;
        if !js.is_undefined(page_size) {
            request.limits.entries = whole(js, page_size, "pageSize", MOST_PAGE_ENTRIES)?;
        }
        let signal = option("signal")?;
        if !js.is_nullish(signal) {
            request.signal = Some(abort_signal(js, signal)?);
        }
        Ok(request)
    }
}

fn abort_signal(js: Js, value: Value) -> Result<Ref> {
    let listens = js.is_object(value)
        && js
            .get(value, "addEventListener")
            .is_ok_and(|method| js.is_function(method))
        && js
            .get(value, "removeEventListener")
            .is_ok_and(|method| js.is_function(method));
    if !listens {
        return Err(Error::InvalidOption("signal must be an AbortSignal".into()));
    }
    Ok(js.keep(value))
}

impl Parse for String {
    fn parse(js: Js, value: Value) -> Result<Self> {
        js.to_text(value).map_err(|why| {
            Error::InvalidOption(match why {
                NotText::NotString => format!("the path or URL must be a string, not {}", js.kind(value)),
                NotText::LoneSurrogate => "the path or URL has a lone surrogate".into(),
            })
        })
    }
}

/// A URL, without white space around it.
pub struct UrlText(pub String);

impl Parse for UrlText {
    fn parse(js: Js, value: Value) -> Result<Self> {
        String::parse(js, value).map(|url| Self(trimmed(&url).to_owned()))
    }
}

/// One URL or several.
pub struct Urls(pub Vec<String>);

impl Parse for Urls {
    fn parse(js: Js, value: Value) -> Result<Self> {
        let array = js
            .array_of_strings(value)
            .map_err(|thrown| Error::InvalidOption(thrown.0))?;
        let Some(array) = array else {
            return Ok(Self(vec![UrlText::parse(js, value)?.0]));
        };
        let url = |index| UrlText::parse(js, js.element_given(array, index)).map(|url| url.0);
        (0..js.length(array)).map(url).collect::<Result<_>>().map(Self)
    }
}
