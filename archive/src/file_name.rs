//! Names of endpoints as parts of file names, in journal and archive folders. No name leads out of its folder, and no two give
//! the same file.

/// An endpoint's name as part of a file name. Of a Kubernetes name only dots change.
pub fn escape(endpoint: &str) -> String {
    let mut out = String::new();
    for byte in endpoint.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02x}")),
        }
    }
    out
}

/// The endpoint's name that [`escape`] wrote; `None` if it wrote none of this.
pub fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let (code, tail) = rest.split_first_chunk::<2>()?;
        out.push(hex::decode(code).ok()?.first().copied()?);
        rest = tail;
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_back_as_it_was_and_stays_in_its_folder() {
        for name in ["main", "a.b-1", "", "../x", "A_b", "ä/%2e"] {
            let file = escape(name);
            assert!(!file.contains(['/', '.', '_']), "{file}");
            assert_eq!(unescape(&file).as_deref(), Some(name));
        }
    }
}
