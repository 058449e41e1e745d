//! Fields: `tag:u16 size:u32 bytes`, the body of every frame and of every nested value.

use std::fmt;

/// Why a list of fields could not be read. The frame it came in is lost, the connection is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// A field says it is longer than what is left.
    Truncated,
    /// A field has a size its type cannot have.
    WrongSize(u16),
    /// Text is not UTF-8.
    NotText(u16),
    /// A value stands outside its enumeration.
    UnknownValue(u16, u64),
    /// A field that must be there is not.
    Missing(u16),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => write!(f, "a field is longer than its frame"),
            Self::WrongSize(tag) => write!(f, "field {tag} has a size its type cannot have"),
            Self::NotText(tag) => write!(f, "field {tag} is not UTF-8"),
            Self::UnknownValue(tag, value) => write!(f, "field {tag} has the unknown value {value}"),
            Self::Missing(tag) => write!(f, "field {tag} is missing"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Reads fields one after another.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Fields in `bytes`, which hold nothing else.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

/// One field: its tag and its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    /// The tag, unique to a meaning within its frame kind or nested value.
    pub tag: u16,
    /// The value's bytes.
    pub bytes: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let Some((head, tail)) = self.rest.split_first_chunk::<6>() else {
            self.rest = &[];
            return Some(Err(DecodeError::Truncated));
        };
        let tag = u16::from_be_bytes([head[0], head[1]]);
        let size = u32::from_be_bytes([head[2], head[3], head[4], head[5]]) as usize;
        let Some((bytes, rest)) = tail.split_at_checked(size) else {
            self.rest = &[];
            return Some(Err(DecodeError::Truncated));
        };
        self.rest = rest;
        Some(Ok(Field { tag, bytes }))
    }
}

impl<'a> Field<'a> {
    /// The value as text.
    pub fn text(&self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes).map_err(|_| DecodeError::NotText(self.tag))
    }

    /// The value as owned text.
    pub fn string(&self) -> Result<String, DecodeError> {
        self.text().map(str::to_owned)
    }

    /// The value as a fixed number of bytes.
    pub fn array<const N: usize>(&self) -> Result<[u8; N], DecodeError> {
        self.bytes.try_into().map_err(|_| DecodeError::WrongSize(self.tag))
    }

    /// The value as `u8`.
    pub fn u8(&self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[b]| b)
    }

    /// The value as `u16`.
    pub fn u16(&self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// The value as `u32`.
    pub fn u32(&self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// The value as `u64`.
    pub fn u64(&self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// The value as `i64`.
    pub fn i64(&self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    /// The value as nested fields.
    #[must_use]
    pub fn nested(&self) -> Fields<'a> {
        Fields::new(self.bytes)
    }

    /// The error for a value outside its enumeration.
    #[must_use]
    pub fn unknown(&self, value: impl Into<u64>) -> DecodeError {
        DecodeError::UnknownValue(self.tag, value.into())
    }
}

/// Writes fields one after another.
#[derive(Debug, Default)]
pub struct FieldsWriter {
    out: Vec<u8>,
}

impl FieldsWriter {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a field.
    pub fn bytes(&mut self, tag: u16, value: &[u8]) -> &mut Self {
        self.out.extend_from_slice(&tag.to_be_bytes());
        // A value over 4 GiB cannot be in a frame, whose own limit is 16 MiB; saturating makes the peer refuse it.
        self.out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.out.extend_from_slice(value);
        self
    }

    /// Appends text.
    pub fn text(&mut self, tag: u16, value: &str) -> &mut Self {
        self.bytes(tag, value.as_bytes())
    }

    /// Appends text if there is any.
    pub fn maybe(&mut self, tag: u16, value: Option<&str>) -> &mut Self {
        if let Some(value) = value {
            self.text(tag, value);
        }
        self
    }

    /// Appends a nested list.
    pub fn nested(&mut self, tag: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::new();
        fill(&mut inner);
        self.bytes(tag, &inner.out)
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}
