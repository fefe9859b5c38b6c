//! The password file of PostgreSQL's own clients (`~/.pgpass`): one line for each
//! server, `host:port:database:user:password`.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

#[derive(Default)]
pub struct PasswordFile {
    content: Vec<u8>,
    /// Why the file is not used.
    pub ignored: Option<String>,
}

impl PasswordFile {
    /// Reads a file. A missing one has no passwords.
    pub fn read(path: &Path) -> Self {
        match Self::content(path) {
            Ok(content) => Self { content, ignored: None },
            Err(error) if error.kind() == ErrorKind::NotFound => Self::default(),
            Err(error) => Self {
                content: Vec::new(),
                ignored: Some(format!("the password file {} is ignored: {error}", path.display())),
            },
        }
    }

    fn content(path: &Path) -> io::Result<Vec<u8>> {
        // Opening a pipe would wait for a writer.
        if !path.metadata()?.is_file() {
            return Err(io::Error::other("it is not a plain file"));
        }
        let mut file = File::open(path)?;
        if others_may_read(&file.metadata()?) {
            return Err(io::Error::other(
                "its group or others may read it; its permissions must be u=rw (0600) or less",
            ));
        }
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        Ok(content)
    }

    /// The password of the first line whose fields match.
    pub fn password(&self, fields: [&str; 4]) -> Option<Vec<u8>> {
        self.content.split(|byte| *byte == b'\n').find_map(|line| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let mut rest = (!line.starts_with(b"#")).then_some(line)?;
            for field in fields {
                let (found, after) = next(rest);
                if rest[..rest.len() - after?.len() - 1] != *b"*" && found != field.as_bytes() {
                    return None;
                }
                rest = after?;
            }
            Some(next(rest).0).filter(|password| !password.is_empty())
        })
    }
}

/// The next field without its escapes, and what follows its colon.
fn next(line: &[u8]) -> (Vec<u8>, Option<&[u8]>) {
    let mut field = Vec::new();
    let mut bytes = line.iter().enumerate();
    while let Some((index, byte)) = bytes.next() {
        match byte {
            b':' => return (field, Some(&line[index + 1..])),
            b'\\' => field.extend(bytes.next().map(|(_, escaped)| *escaped)),
            byte => field.push(*byte),
        }
    }
    (field, None)
}

#[cfg(unix)]
fn others_may_read(metadata: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    metadata.mode() & 0o077 != 0
}

#[cfg(not(unix))]
fn others_may_read(_: &Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(content: &str, fields: [&str; 4]) -> Option<String> {
        let file = PasswordFile {
            content: content.into(),
            ignored: None,
        };
        file.password(fields)
            .map(|password| String::from_utf8(password).unwrap())
    }

    #[test]
    fn the_first_line_that_matches_counts() {
        let fields = ["db.example", "5432", "app", "user"];
        let found = |content| password(content, fields);
        assert_eq!(found("db.example:5432:app:user:secret").as_deref(), Some("secret"));
        assert_eq!(
            found("#db.example:5432:app:user:no\r\n\n*:*:*:*:a\r\n").as_deref(),
            Some("a")
        );
        assert_eq!(
            found("other:*:*:*:no\n*:5432:*:user:yes\n*:*:*:*:no").as_deref(),
            Some("yes")
        );
        // A colon ends the password, unless it is escaped.
        assert_eq!(found(r"*:*:*:*:a\:b\\c:rest").as_deref(), Some(r"a:b\c"));
        for none in [
            "",
            "*:*:*:*:",
            "*:*:*:*",
            "db.example",
            "*:*:*:other:x",
            r"\*:*:*:*:x",
            "**:*:*:*:x",
        ] {
            assert_eq!(found(none), None, "{none}");
        }
        let fields = ["::1", "5432", r"a\b", "*"];
        assert_eq!(password(r"\:\:1:*:a\\b:\*:x", fields).as_deref(), Some("x"));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_ignored() {
        use std::fs::{Permissions, create_dir, remove_dir_all, set_permissions, write};
        use std::os::unix::fs::PermissionsExt;
        let directory = std::env::temp_dir().join(format!("fedify-kv-pgpass-{}", std::process::id()));
        create_dir(&directory).unwrap();
        let path = directory.join("pgpass");
        let any = ["h", "1", "d", "u"];
        assert!(PasswordFile::read(&path).ignored.is_none());
        write(&path, "*:*:*:*:x").unwrap();
        for (mode, used) in [
            (0o600, true),
            (0o400, true),
            (0o640, false),
            (0o604, false),
            (0o620, false),
        ] {
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let file = PasswordFile::read(&path);
            assert_eq!(file.password(any).is_some(), used, "{mode:o}");
            assert_eq!(file.ignored.is_none(), used, "{mode:o}");
        }
        let ignored = PasswordFile::read(&directory).ignored.unwrap();
        assert!(ignored.contains("plain file"), "{ignored}");
        remove_dir_all(directory).unwrap();
    }
}
