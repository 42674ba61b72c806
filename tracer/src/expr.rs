//! The small language of conditions: `wait>10ms`, `violation`, `kind==mmap_acquire && pid!=1`.
//!
//! ```text
//! or    = and { "||" and }
//! and   = not { "&&" not }
//! not   = "!" not | "(" or ")" | term
//! term  = NAME [ OP VALUE ]
//! OP    = ">" | ">=" | "<" | "<=" | "==" | "!="
//! NAME  = a letter, then letters, digits, "-", "_" and "."
//! VALUE = a number with or without a unit (ns us ms s m h %), a word, or "text in quotes"
//! ```
//!
//! Which names there are, and what their values mean, is for those to say who use it: a parsed condition knows where
//! each word stood, so that they can complain about it as well as the parser does ([`Error`]).

use std::fmt;
use std::ops::Range;

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// One of the two, or both.
    Or(Box<Expr>, Box<Expr>),
    /// Both.
    And(Box<Expr>, Box<Expr>),
    /// Not that.
    Not(Box<Expr>),
    /// A single one.
    Term(Term),
}

/// A name, and perhaps what it is compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// What is asked for.
    pub name: String,
    /// Where that stands.
    pub at: Range<usize>,
    /// What it is compared with; `None`: the name alone is the condition.
    pub comparison: Option<Comparison>,
}

/// An operator and a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// How it is compared.
    pub op: Op,
    /// Where the operator stands.
    pub op_at: Range<usize>,
    /// With what.
    pub value: Value,
    /// Where the value stands.
    pub value_at: Range<usize>,
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `==`
    Equal,
    /// `!=`
    Unequal,
}

impl Op {
    /// All, the longer ones first.
    const ALL: [(&'static str, Self); 6] = [
        (">=", Self::AtLeast),
        ("<=", Self::AtMost),
        ("==", Self::Equal),
        ("!=", Self::Unequal),
        (">", Self::Above),
        ("<", Self::Below),
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, op)| *op == self)
            .map_or("", |(name, _)| name)
    }
}

/// What something is compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number without a unit.
    Number(f64),
    /// A time, in nanoseconds.
    Nanoseconds(u64),
    /// So many of a hundred.
    Percent(f64),
    /// A word, or text in quotes.
    Text(String),
}

/// What is wrong with a condition, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    text: String,
    at: Range<usize>,
    what: String,
}

impl Error {
    /// That part of `text` is wrong.
    pub fn new(text: &str, at: Range<usize>, what: impl Into<String>) -> Self {
        Self {
            text: text.to_owned(),
            at,
            what: what.into(),
        }
    }
}

impl fmt::Display for Error {
    /// What is wrong, then the text with marks below that part.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = self.text[..self.at.start].chars().count();
        let marked = self.text[self.at.clone()].chars().count().max(1);
        write!(
            f,
            "{}\n  {}\n  {}{}",
            self.what,
            self.text,
            " ".repeat(before),
            "^".repeat(marked)
        )
    }
}

impl std::error::Error for Error {}

/// Nesting deeper than this is no condition that anybody wrote by hand.
const DEPTH: usize = 64;

/// Understands a condition.
///
/// # Errors
/// When it is none; tells what was expected, and where.
pub fn parse(text: &str) -> Result<Expr, Error> {
    let mut parser = Parser {
        text,
        at: 0,
        depth: 0,
    };
    let expr = parser.or()?;
    parser.skip_space();
    if parser.at < text.len() {
        return Err(parser.error_here("the condition should end here, or go on with && or ||"));
    }
    Ok(expr)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn take(&mut self, word: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    /// The longest start of the rest whose characters all fit.
    fn take_while(&mut self, fits: impl Fn(char) -> bool) -> (&'a str, Range<usize>) {
        let rest = self.rest();
        let len = rest.find(|c: char| !fits(c)).unwrap_or(rest.len());
        let at = self.at..self.at + len;
        self.at = at.end;
        (&rest[..len], at)
    }

    fn error_here(&self, what: impl Into<String>) -> Error {
        let len = self.rest().chars().next().map_or(0, char::len_utf8);
        Error::new(self.text, self.at..self.at + len, what)
    }

    fn or(&mut self) -> Result<Expr, Error> {
        let mut left = self.and()?;
        while self.take("||") {
            left = Expr::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr, Error> {
        let mut left = self.not()?;
        while self.take("&&") {
            left = Expr::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr, Error> {
        self.skip_space();
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(self.error_here("this is nested too deeply"));
        }
        let expr = if self.take("!") {
            Expr::Not(Box::new(self.not()?))
        } else if self.take("(") {
            let open = self.at - 1;
            let inner = self.or()?;
            if !self.take(")") {
                return Err(Error::new(
                    self.text,
                    open..open + 1,
                    "this parenthesis is not closed",
                ));
            }
            inner
        } else {
            Expr::Term(self.term()?)
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn term(&mut self) -> Result<Term, Error> {
        self.skip_space();
        if !self.rest().starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(self.error_here("a name should stand here, such as wait"));
        }
        let (name, at) = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        let name = name.to_owned();
        self.skip_space();
        let op_start = self.at;
        let Some(&(written, op)) = Op::ALL.iter().find(|(op, _)| self.rest().starts_with(op)) else {
            if self.rest().starts_with('=') {
                return Err(self.error_here("equality is written =="));
            }
            return Ok(Term {
                name,
                at,
                comparison: None,
            });
        };
        self.at += written.len();
        let op_at = op_start..self.at;
        self.skip_space();
        let value_start = self.at;
        let value = self.value()?;
        Ok(Term {
            name,
            at,
            comparison: Some(Comparison {
                op,
                op_at,
                value,
                value_at: value_start..self.at,
            }),
        })
    }

    fn value(&mut self) -> Result<Value, Error> {
        let rest = self.rest();
        if let Some(quoted) = rest.strip_prefix('"') {
            let Some(len) = quoted.find('"') else {
                return Err(self.error_here("this quotation mark has no partner"));
            };
            self.at += len + 2;
            return Ok(Value::Text(quoted[..len].to_owned()));
        }
        let start = self.at;
        let (digits, digits_at) = self.take_while(|c| c.is_ascii_digit() || c == '.');
        if digits.is_empty() {
            let (word, _) = self.take_while(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
            if word.is_empty() {
                return Err(self.error_here("a value should stand here, such as 10ms"));
            }
            return Ok(Value::Text(word.to_owned()));
        }
        let number: f64 = digits
            .parse()
            .map_err(|_| Error::new(self.text, digits_at, "this is no number"))?;
        let (unit, unit_at) = self.take_while(|c| c.is_alphabetic() || matches!(c, '%' | '_'));
        let factor = match unit {
            "" => return Ok(Value::Number(number)),
            "%" => return Ok(Value::Percent(number)),
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => {
                let what = format!("there is no unit {unit}; there are ns, us, ms, s, m, h and %");
                return Err(Error::new(self.text, unit_at, what));
            }
        };
        let ns = number * factor;
        if ns >= u64::MAX as f64 {
            return Err(Error::new(self.text, start..self.at, "that is too long"));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "neither negative nor too large"
        )]
        Ok(Value::Nanoseconds(ns.round() as u64))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn term(text: &str) -> Term {
        match parse(text).unwrap() {
            Expr::Term(term) => term,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn terms_are_understood_with_any_space() {
        for text in ["wait>10ms", " wait > 10ms ", "wait>10000us"] {
            let comparison = term(text).comparison.unwrap();
            assert_eq!(comparison.op, Op::Above);
            assert_eq!(comparison.value, Value::Nanoseconds(10_000_000));
        }
        assert_eq!(term("violation").comparison, None);
        let rate = term("fallback-rate>=12.5%").comparison.unwrap();
        assert_eq!((rate.op, rate.value), (Op::AtLeast, Value::Percent(12.5)));
        assert_eq!(
            term("comm==\"a b\"").comparison.unwrap().value,
            Value::Text("a b".to_owned())
        );
        assert_eq!(term("pid!=1").comparison.unwrap().value, Value::Number(1.0));
    }

    #[test]
    fn and_binds_stronger_than_or() {
        let Expr::Or(left, right) = parse("a || !b && (c || d)").unwrap() else {
            panic!("no or");
        };
        assert!(matches!(*left, Expr::Term(_)));
        let Expr::And(b, c_or_d) = *right else {
            panic!("no and");
        };
        assert!(matches!(*b, Expr::Not(_)) && matches!(*c_or_d, Expr::Or(..)));
    }

    #[test]
    fn errors_say_what_and_where() {
        for (text, what, mark) in [
            ("wait>10xs", "no unit xs", "         ^^"),
            ("wait>", "a value", "       ^"),
            ("wait=10ms", "written ==", "      ^"),
            (">5", "a name", "  ^"),
            ("wait>1.2.3ms", "no number", "       ^^^^^"),
            ("(wait>1ms", "not closed", "  ^"),
            ("wait>1ms hold>1ms", "&& or ||", "           ^"),
            ("comm==\"a", "no partner", "        ^"),
            ("wait>99999999999999h", "too long", "       ^^^^^^^^^^^^^^^"),
            ("", "a name", "  ^"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(what), "{text}: {error}");
            assert_eq!(error.lines().nth(2), Some(mark), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_typed_panics(text in "\\PC*") {
            if let Err(error) = parse(&text) {
                prop_assert!(!error.to_string().is_empty());
            }
        }

        #[test]
        fn nesting_has_an_end(depth in 1..5000_usize) {
            let text = "(".repeat(depth) + "a" + &")".repeat(depth);
            prop_assert_eq!(parse(&text).is_ok(), depth < DEPTH);
        }
    }
}
