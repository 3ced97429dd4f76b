//! Queries that are put together at run time.
//!
//! sqlx has a builder, but with an engine that is chosen at run time it writes `?`, which PostgreSQL does not know.

use std::fmt::{Display, Write};

use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::{QueryAs, QueryScalar};
use sqlx::{Arguments, AssertSqlSafe, Encode, FromRow, Type};

use super::Db;

/// A query and the values for its places, which are numbered `$1`, `$2` and so on.
pub(crate) struct Query {
    text: String,
    arguments: AnyArguments,
}

impl Query {
    /// A query that begins like this.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), arguments: AnyArguments::default() }
    }

    /// Adds SQL. It must not come from outside.
    pub(crate) fn push(&mut self, sql: impl Display) -> &mut Self {
        write!(self.text, "{sql}").expect("a string takes everything");
        self
    }

    /// Adds a place, and the value for it.
    pub(crate) fn push_bind<'v>(&mut self, value: impl Encode<'v, Db> + Type<Db>) -> &mut Self {
        self.arguments.add(value).expect("numbers and text can be sent");
        let place = self.arguments.len();
        self.push(format_args!("${place}"))
    }

    /// Adds `column IN (…)`.
    pub(crate) fn push_in(&mut self, column: &str, values: impl Iterator<Item = String>) -> &mut Self {
        self.push(column).push(" IN (");
        for (n, value) in values.enumerate() {
            if n > 0 {
                self.push(", ");
            }
            self.push_bind(value);
        }
        self.push(")")
    }

    /// The query, for rows.
    pub(crate) fn rows<T: for<'r> FromRow<'r, AnyRow>>(self) -> QueryAs<'static, Db, T, AnyArguments> {
        sqlx::query_as_with(AssertSqlSafe(self.text), self.arguments)
    }

    /// The query, for one value a row.
    pub(crate) fn values<T>(self) -> QueryScalar<'static, Db, T, AnyArguments>
    where
        (T,): for<'r> FromRow<'r, AnyRow>,
    {
        sqlx::query_scalar_with(AssertSqlSafe(self.text), self.arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_numbered_in_order() {
        let mut query = Query::new("SELECT x FROM t WHERE ");
        query.push("a = ").push_bind(1_i64).push(" AND ");
        query.push_in("b", ["x".to_owned(), "y".to_owned()].into_iter()).push(" LIMIT ").push_bind(2_i64);
        assert_eq!(query.text, "SELECT x FROM t WHERE a = $1 AND b IN ($2, $3) LIMIT $4");
        assert_eq!(query.arguments.len(), 4);
    }
}
