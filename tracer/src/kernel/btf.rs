//! A reader for the kernel's own type information, as far as this program asks: where fields are,
//! which functions have a type, how many arguments they take.
//!
//! Why not a crate: btf-rs is LGPL, which a static binary under MIT or Apache-2.0 cannot carry
//! without more, aya's own reader keeps its types private, and both build a value for each of some
//! 120,000 types, which under emulation takes longer than a user waits for the first event. This
//! one walks the bytes and builds nothing.
//!
//! Format: <https://docs.kernel.org/bpf/btf.html>.

use std::fmt;

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: usize = 24;

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FWD: u32 = 7;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_FLOAT: u32 = 16;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// How deep anonymous members may nest before we call the data broken.
const MAX_DEPTH: u32 = 16;

/// Why bytes are no type information.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BtfError {
    /// It does not start as it should.
    NotBtf,
    /// A part lies outside the bytes, or a type's kind is not known.
    Broken {
        /// Where, in bytes from the start.
        offset: usize,
        /// What is wrong.
        what: &'static str,
    },
}

impl fmt::Display for BtfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBtf => write!(f, "not BTF type information (wrong magic number)"),
            Self::Broken { offset, what } => write!(f, "broken BTF at byte {offset}: {what}"),
        }
    }
}

impl std::error::Error for BtfError {}

/// One type: where its record is.
#[derive(Clone, Copy, Debug)]
struct Type {
    at: usize,
    name: u32,
    info: u32,
    /// Size, or the type that this one refers to.
    size_or_type: u32,
}

impl Type {
    const fn kind(&self) -> u32 {
        (self.info >> 24) & 0x1f
    }
    const fn vlen(&self) -> usize {
        (self.info & 0xffff) as usize
    }
    const fn kind_flag(&self) -> bool {
        self.info >> 31 != 0
    }
}

/// The kernel's type information.
pub struct Btf {
    bytes: Vec<u8>,
    /// Offset of each type's record; type 1 is the first.
    types: Vec<u32>,
    strings: std::ops::Range<usize>,
}

/// A function's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prototype {
    /// Number of parameters.
    pub params: usize,
    /// Whether it returns something.
    pub returns: bool,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

impl Btf {
    /// Indexes the bytes of `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    /// When they are not what they should be.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let broken = |offset, what| BtfError::Broken { offset, what };
        if bytes.len() < HEADER_LEN || u16::from_le_bytes([bytes[0], bytes[1]]) != MAGIC {
            return Err(BtfError::NotBtf);
        }
        let word = |at| u32_at(&bytes, at).map_or(0, |value| value as usize);
        let (header, type_at, type_len, string_at, string_len) =
            (word(4), word(8), word(12), word(16), word(20));
        let section = |at: usize, len: usize| {
            let start = header.checked_add(at)?;
            let end = start.checked_add(len)?;
            (end <= bytes.len()).then_some(start..end)
        };
        let type_section = section(type_at, type_len).ok_or(broken(8, "type section outside the file"))?;
        let strings = section(string_at, string_len).ok_or(broken(16, "string section outside the file"))?;

        let mut types = vec![0];
        let mut at = type_section.start;
        while at < type_section.end {
            let info = u32_at(&bytes, at + 4).ok_or(broken(at, "type cut short"))?;
            let vlen = (info & 0xffff) as usize;
            let extra = match (info >> 24) & 0x1f {
                KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                KIND_ARRAY => 12,
                KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => vlen * 12,
                KIND_ENUM | KIND_FUNC_PROTO => vlen * 8,
                KIND_PTR | KIND_FWD | KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT
                | KIND_FUNC | KIND_FLOAT | KIND_TYPE_TAG => 0,
                _ => return Err(broken(at, "unknown kind of type")),
            };
            types.push(at as u32);
            at += 12 + extra;
        }
        if at != type_section.end {
            return Err(broken(at, "last type cut short"));
        }
        Ok(Self {
            bytes,
            types,
            strings,
        })
    }

    /// The same numbering of types, but with nothing left of them save the names of these functions and of the
    /// tracepoints: for aya, which looks a name up by walking all there is, for each program again.
    pub fn pared(&self, functions: &[&str]) -> Vec<u8> {
        const TRACEPOINT: &[u8] = b"btf_trace_";
        let count = self.types.len() - 1;
        let mut strings = vec![0];
        let mut bytes = Vec::with_capacity(HEADER_LEN + count * 12 + (64 << 10));
        bytes.resize(HEADER_LEN, 0);
        for id in 1..self.types.len() as u32 {
            let mut words = [0, KIND_FWD << 24, 0];
            let found = self.type_at(id);
            if let Some(found) = found
                && (found.kind() == KIND_FUNC && functions.iter().any(|name| self.name_is(found.name, name))
                    || found.kind() == KIND_TYPEDEF && self.name(found.name).starts_with(TRACEPOINT))
            {
                words = [strings.len() as u32, found.info, found.size_or_type];
                strings.extend_from_slice(self.name(found.name));
                strings.push(0);
            }
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }
        let type_len = bytes.len() - HEADER_LEN;
        bytes.extend_from_slice(&strings);
        bytes[..4].copy_from_slice(&[0x9f, 0xeb, 1, 0]);
        for (at, word) in [HEADER_LEN, 0, type_len, type_len, strings.len()]
            .into_iter()
            .enumerate()
        {
            bytes[4 + at * 4..8 + at * 4].copy_from_slice(&(word as u32).to_le_bytes());
        }
        bytes
    }

    fn name(&self, offset: u32) -> &[u8] {
        let start = self.strings.start + offset as usize;
        let strings = self.bytes.get(start..self.strings.end).unwrap_or_default();
        &strings[..memchr::memchr(0, strings).unwrap_or(strings.len())]
    }

    fn type_at(&self, id: u32) -> Option<Type> {
        let at = *self.types.get(id as usize)? as usize;
        if id == 0 {
            return None;
        }
        Some(Type {
            at,
            name: u32_at(&self.bytes, at)?,
            info: u32_at(&self.bytes, at + 4)?,
            size_or_type: u32_at(&self.bytes, at + 8)?,
        })
    }

    fn name_is(&self, offset: u32, name: &str) -> bool {
        let start = self.strings.start + offset as usize;
        let end = start + name.len();
        end < self.strings.end && &self.bytes[start..end] == name.as_bytes() && self.bytes[end] == 0
    }

    fn find(&self, kind: u32, name: &str) -> Option<u32> {
        (1..self.types.len() as u32).find(|&id| {
            self.type_at(id)
                .is_some_and(|found| found.kind() == kind && self.name_is(found.name, name))
        })
    }

    /// Passes over names for types, and over what qualifies them.
    fn strip(&self, mut id: u32) -> Option<(u32, Type)> {
        for _ in 0..MAX_DEPTH {
            let found = self.type_at(id)?;
            match found.kind() {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = found.size_or_type;
                }
                _ => return Some((id, found)),
            }
        }
        None
    }

    /// Offset in bytes of a field, given as a path such as `mm_lock_seq.sequence`. Looks into
    /// anonymous members, as C does.
    pub fn offset(&self, structure: &str, path: &str) -> Option<u32> {
        self.bits(structure, path).map(|bits| bits / 8)
    }

    /// The byte of a field of one bit, as its offset, and the bit as a mask in it.
    pub fn bit(&self, structure: &str, path: &str) -> Option<(u32, u8)> {
        self.bits(structure, path).map(|bits| (bits / 8, 1 << (bits % 8)))
    }

    /// Offset in bits.
    fn bits(&self, structure: &str, path: &str) -> Option<u32> {
        // Two types may share a name; the one with the field is meant.
        (1..self.types.len() as u32).find_map(|id| {
            let found = self.type_at(id)?;
            if found.kind() != KIND_STRUCT || !self.name_is(found.name, structure) {
                return None;
            }
            let mut total = 0;
            let mut within = id;
            for part in path.split('.') {
                let (offset, member) = self.member(within, part, 0)?;
                total += offset;
                within = member;
            }
            Some(total)
        })
    }

    /// Offset in bits and type of a member by name.
    fn member(&self, id: u32, name: &str, depth: u32) -> Option<(u32, u32)> {
        if depth > MAX_DEPTH {
            return None;
        }
        let (_, of) = self.strip(id)?;
        if of.kind() != KIND_STRUCT && of.kind() != KIND_UNION {
            return None;
        }
        for index in 0..of.vlen() {
            let at = of.at + 12 + index * 12;
            let member_name = u32_at(&self.bytes, at)?;
            let member_type = u32_at(&self.bytes, at + 4)?;
            let place = u32_at(&self.bytes, at + 8)?;
            // With the kind flag the upper byte is the width of a bit field.
            let bits = if of.kind_flag() {
                place & 0x00ff_ffff
            } else {
                place
            };
            if self.name_is(member_name, name) {
                return Some((bits, member_type));
            }
            let anonymous = member_name == 0 || self.name_is(member_name, "");
            if anonymous && let Some((offset, found)) = self.member(member_type, name, depth + 1) {
                return Some((bits + offset, found));
            }
        }
        None
    }

    /// The shape of a function, if the kernel has one of that name with a type.
    pub fn function(&self, name: &str) -> Option<Prototype> {
        let id = self.find(KIND_FUNC, name)?;
        self.prototype(self.type_at(id)?.size_or_type)
    }

    /// The shape of a tracepoint's handler, its hidden first argument left out.
    pub fn tracepoint(&self, name: &str) -> Option<Prototype> {
        let id = self.find(KIND_TYPEDEF, &format!("btf_trace_{name}"))?;
        let (_, pointer) = self.strip(id)?;
        if pointer.kind() != KIND_PTR {
            return None;
        }
        let mut shape = self.prototype(pointer.size_or_type)?;
        shape.params = shape.params.checked_sub(1)?;
        Some(shape)
    }

    fn prototype(&self, id: u32) -> Option<Prototype> {
        let (_, proto) = self.strip(id)?;
        (proto.kind() == KIND_FUNC_PROTO).then(|| Prototype {
            params: proto.vlen(),
            returns: proto.size_or_type != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds type information: strings by name, types as words.
    fn build(strings: &str, types: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC.to_le_bytes());
        bytes.extend_from_slice(&[1, 0]);
        for word in [
            24,
            0,
            types.len() as u32 * 4,
            types.len() as u32 * 4,
            strings.len() as u32,
        ] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        for word in types {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(strings.as_bytes());
        bytes
    }

    const STRINGS: &str = "\0outer\0direct\0inner\0";

    fn nested() -> Vec<u8> {
        build(
            STRINGS,
            &[
                // 1: int of 4 bytes
                0,
                KIND_INT << 24,
                4,
                32, //
                // 2: anonymous union { int inner }
                0,
                KIND_UNION << 24 | 1,
                4,
                14,
                1,
                0, //
                // 3: struct outer { int direct; union 2 at bit 64 }
                1,
                KIND_STRUCT << 24 | 2,
                16,
                7,
                1,
                0,
                0,
                2,
                64,
            ],
        )
    }

    #[test]
    fn finds_fields_inside_anonymous_members() {
        let btf = Btf::parse(nested()).unwrap();
        assert_eq!(btf.offset("outer", "direct"), Some(0));
        assert_eq!(btf.offset("outer", "inner"), Some(8));
        assert_eq!(btf.offset("outer", "absent"), None);
        assert_eq!(btf.offset("absent", "inner"), None);
    }

    #[test]
    fn pared_types_keep_their_numbers() {
        let strings = "\0btf_trace_x\0f\0g\0";
        let types = [
            1,
            KIND_STRUCT << 24 | 1,
            8,
            1,
            0,
            0, // 1: a struct with a member
            1,
            KIND_TYPEDEF << 24,
            1, // 2
            13,
            KIND_FUNC << 24,
            1, // 3: f
            15,
            KIND_FUNC << 24,
            1, // 4: g
        ];
        let whole = Btf::parse(build(strings, &types)).unwrap();
        let pared = Btf::parse(whole.pared(&["g"])).unwrap();
        assert_eq!(pared.find(KIND_TYPEDEF, "btf_trace_x"), Some(2));
        assert_eq!(pared.find(KIND_FUNC, "f"), None);
        assert_eq!(pared.find(KIND_FUNC, "g"), Some(4));
        assert_eq!(pared.types.len(), whole.types.len());
        let theirs = aya::Btf::parse(&whole.pared(&["g"]), aya::Endianness::default()).unwrap();
        assert_eq!(
            theirs
                .id_by_type_name_kind("g", aya_obj::btf::BtfKind::Func)
                .unwrap(),
            4
        );
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        assert_eq!(Btf::parse(b"hello".to_vec()).err(), Some(BtfError::NotBtf));
        let whole = nested();
        for cut in 2..whole.len() {
            assert!(Btf::parse(whole[..cut].to_vec()).is_err(), "cut at {cut}");
        }
        let unknown = build("\0", &[0, 31 << 24, 0]);
        assert!(matches!(
            Btf::parse(unknown),
            Err(BtfError::Broken {
                what: "unknown kind of type",
                ..
            })
        ));
    }
}
