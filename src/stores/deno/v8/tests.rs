//! Bytes that V8 wrote (`v8.serialize` of Node.js 24). Tests in `__test__` use
//! the real V8 to read what we write, and to write what we read.

use super::*;

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

#[test]
fn what_json_can_say_goes_both_ways() {
    for (json, bytes) in [
        ("null", "ff 0f 30"),
        ("[true,false]", "ff 0f 41 02 54 46 24 00 02"),
        ("-1", "ff 0f 49 01"),
        (r#""a\n""#, "ff 0f 22 02 61 0a"),
        (r#""é""#, "ff 0f 22 01 e9"),
        (r#""漢""#, "ff 0f 63 02 22 6f"),
        (r#"["漢"]"#, "ff 0f 41 01 63 02 22 6f 24 00 01"),
        (r#"{"a":"漢"}"#, "ff 0f 6f 22 01 61 63 02 22 6f 7b 01"),
        (r#"{"aa":"漢"}"#, "ff 0f 6f 22 02 61 61 00 63 02 22 6f 7b 01"),
        (
            r#"{"1":[],"a":{}}"#,
            "ff 0f 6f 49 02 41 00 24 00 00 22 01 61 6f 7b 00 7b 02",
        ),
    ] {
        assert_eq!(to_v8(json), hex(bytes), "{json}");
        let back = to_json(&hex(bytes)).unwrap().unwrap();
        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(parse(&back), parse(json));
    }
}

#[test]
fn what_json_leaves_out_is_left_out() {
    for (bytes, json) in [
        // undefined
        ("ff 0f 5f", None),
        // { a: undefined, b: 1 }
        ("ff 0f 6f 22 01 61 5f 22 01 62 49 02 7b 02", Some(r#"{"b":1}"#)),
        // [undefined]
        ("ff 0f 41 01 5f 24 00 01", Some("[null]")),
        // Array(3) with [1] = 1
        ("ff 0f 61 03 49 02 49 02 40 01 03", Some("[null,1,null]")),
        // Object.assign([1], { a: [2] })
        ("ff 0f 41 01 49 02 22 01 61 41 01 49 04 24 00 01 24 01 01", Some("[1]")),
        // const a = [2]; [Object.assign([1], { a }), a]
        (
            "ff 0f 41 02 41 01 49 02 22 01 61 41 01 49 04 24 00 01 24 01 01 5e 02 24 00 02",
            Some("[[1],[2]]"),
        ),
        // -0
        ("ff 0f 4e 00 00 00 00 00 00 00 80", Some("0e0")),
        // NaN
        ("ff 0f 4e 00 00 00 00 00 00 f8 7f", Some("null")),
        // new Date(0)
        (
            "ff 0f 44 00 00 00 00 00 00 00 00",
            Some(r#""1970-01-01T00:00:00.000Z""#),
        ),
        // new Date(-1e14)
        (
            "ff 0f 44 00 00 90 1e c4 bc d6 c2",
            Some(r#""-001199-02-15T14:13:20.000Z""#),
        ),
        // const a = []; [a, a]
        ("ff 0f 41 02 41 00 24 00 00 5e 01 24 00 02", Some("[[],[]]")),
    ] {
        assert_eq!(to_json(&hex(bytes)), Ok(json.map(Into::into)), "{bytes}");
    }
}

#[test]
fn what_has_no_json_is_refused() {
    for bytes in [
        // new Map(), new Set(), 1n
        "ff 0f 3b 3a 00",
        "ff 0f 27 2c 00",
        "ff 0f 5a 10 01 00 00 00 00 00 00 00",
        // const a = []; a[0] = a
        "ff 0f 41 01 5e 00 24 00 01",
        // Too short, of an unknown version, of an unknown kind, too long.
        "ff 0f 6f 22 01 61",
        "ff 11 30",
        "ff 0f 5c",
        "ff 0f 30 30",
        "",
    ] {
        assert!(to_json(&hex(bytes)).is_err(), "{bytes}");
    }
}

#[test]
fn no_bytes_cost_more_than_they_may() {
    // Ten arrays of ten references each: 10^20 elements as JSON.
    let mut bytes = vec![0xff, 0x0f, b'A', 20];
    for level in 0..20_u8 {
        bytes.extend([b'A', 10]);
        for _ in 0..10 {
            if level == 0 {
                bytes.push(b'T');
            } else {
                bytes.extend([b'^', level]);
            }
        }
        bytes.extend([b'$', 0, 10]);
    }
    bytes.extend([b'$', 0, 20]);
    assert!(to_json(&bytes).is_err());
    // new Array(2 ** 32 - 1)
    assert!(to_json(&hex("ff 0f 61 ff ff ff ff 0f 40 00 ff ff ff ff 0f")).is_err());
}

#[test]
fn any_bytes_are_read_or_refused() {
    let seed = to_v8(r#"{"a":[1,2.5,"漢\"",{"b":null,"7":true}],"é":[[],{}]}"#);
    for at in 0..seed.len() {
        for byte in 0..=255 {
            let mut bytes = seed.clone();
            bytes[at] = byte;
            if let Ok(Some(json)) = to_json(&bytes) {
                assert!(serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok(), "{json}");
            }
        }
        let _ = to_json(&seed[..at]);
    }
}
