//! Statements put together from text and bound values. No value ever becomes text.

use sea_orm::sea_query::ArrayType;
use sea_orm::{DbErr, QueryResult, Statement, TryGetable, Value};
use uuid::Uuid;

use crate::store::backend::Backend;

/// A statement under construction.
#[derive(Debug)]
pub(crate) struct Sql {
    backend: Backend,
    text: String,
    values: Vec<Value>,
}

impl Sql {
    pub(crate) fn new(backend: Backend, text: &str) -> Self {
        Self { backend, text: text.to_owned(), values: Vec::new() }
    }

    /// `DELETE` the rows of `table` whose `column` is one of these ids, by primary key.
    pub(crate) fn delete(backend: Backend, table: &str, column: &str, ids: &[Uuid]) -> Self {
        let what = if backend.joins_ids() { table } else { "" };
        Self::new(backend, "DELETE ").text(what).text(" FROM ").rows_of(table, column, ids)
    }

    /// `UPDATE` the rows of `table` with these ids, by primary key; conditions may follow.
    pub(crate) fn update(backend: Backend, table: &str, ids: &[Uuid], set: impl FnOnce(Self) -> Self) -> Self {
        let update = Self::new(backend, "UPDATE ");
        if backend.joins_ids() {
            set(update.joined(table, "id", ids).text(" SET ")).text(" WHERE 1 = 1")
        } else {
            set(update.text(table).text(" SET ")).text(" WHERE id").any(ids)
        }
    }

    /// After a `FROM`: the rows of `table` whose `column` is one of these ids, by primary key; conditions may follow.
    pub(crate) fn rows_of(self, table: &str, column: &str, ids: &[Uuid]) -> Self {
        if self.backend.joins_ids() {
            self.joined(table, column, ids).text(" WHERE 1 = 1")
        } else {
            self.text(table).text(" WHERE ").text(column).any(ids)
        }
    }

    /// The ids as a table, then `table`: one value to bind, however many ids.
    fn joined(self, table: &str, column: &str, ids: &[Uuid]) -> Self {
        let ids: Vec<String> = ids.iter().map(|id| id.simple().to_string()).collect();
        self.text("JSON_TABLE(")
            .bind(serde_json::json!(ids).to_string())
            .text(", '$[*]' COLUMNS (wanted CHAR(32) PATH '$')) AS ids STRAIGHT_JOIN ")
            .text(&format!("{table} FORCE INDEX (PRIMARY) ON {table}.{column} = UNHEX(ids.wanted)"))
    }

    pub(crate) fn text(mut self, text: &str) -> Self {
        self.push(text);
        self
    }

    /// Database time, in microseconds.
    pub(crate) fn now(mut self) -> Self {
        self.push(self.backend.now());
        self
    }

    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.push_value(value.into());
        self
    }

    /// ` = ANY($n)` or ` IN (?, …)`: a condition on the column named before.
    ///
    /// A list is padded to a power of two with its last id, so that a server sees few shapes and can keep their plans.
    pub(crate) fn any(mut self, ids: &[Uuid]) -> Self {
        if self.backend.binds_arrays() {
            self.push(" = ANY(");
            self.push_value(array(ArrayType::Uuid, ids.iter().map(|id| (*id).into()).collect()));
        } else {
            self.push(" IN (");
            let last = ids.last().copied().unwrap_or_default();
            for index in 0..ids.len().max(1).next_power_of_two() {
                if index > 0 {
                    self.push(", ");
                }
                self.push_value(ids.get(index).copied().unwrap_or(last).into());
            }
        }
        self.push(")");
        self
    }

    /// The same for texts.
    pub(crate) fn any_text<'a>(mut self, texts: impl IntoIterator<Item = &'a str>) -> Self {
        let texts: Vec<Value> = texts.into_iter().map(Value::from).collect();
        if self.backend.binds_arrays() {
            self.push(" = ANY(");
            self.push_value(array(ArrayType::String, texts));
        } else {
            self.push(" IN (");
            for (index, text) in texts.into_iter().enumerate() {
                if index > 0 {
                    self.push(", ");
                }
                self.push_value(text);
            }
        }
        self.push(")");
        self
    }

    /// `INSERT INTO table (columns) …` for all rows: one array a column where arrays can be bound, a list of rows
    /// elsewhere.
    pub(crate) fn insert(mut self, table: &Table, rows: Vec<Vec<Value>>) -> Self {
        self.push("INSERT INTO ");
        self.push(table.name);
        self.push(" (");
        for (index, column) in table.columns.iter().enumerate() {
            self.push(if index > 0 { ", " } else { "" });
            self.push(column.0);
        }
        self.push(") ");
        if self.backend.binds_arrays() {
            self.insert_arrays(table, rows)
        } else {
            self.insert_rows(table, &rows)
        }
        self
    }

    fn insert_arrays(&mut self, table: &Table, rows: Vec<Vec<Value>>) {
        self.push("SELECT ");
        for (index, (_, expression)) in table.columns.iter().enumerate() {
            self.push(if index > 0 { ", " } else { "" });
            for part in expression.parts(self.backend) {
                match part {
                    Part::Text(text) => self.push(&text),
                    Part::Input(input) => {
                        let (name, kind) = table.inputs[input];
                        // An array of the driver has no nulls; no nullable text of ours is ever empty.
                        match kind {
                            Kind::NullableText => self.push(&format!("NULLIF(r.{name}, '')")),
                            Kind::NullableId => self.push(&format!("NULLIF(r.{name}, '{}'::uuid)", Uuid::nil())),
                            Kind::NullableNumber => self.push(&format!("NULLIF(r.{name}, -1)")),
                            Kind::Id | Kind::Text | Kind::Small | Kind::Int | Kind::Big => {
                                self.push(&format!("r.{name}"));
                            }
                        }
                    }
                }
            }
        }
        self.push(" FROM unnest(");
        let mut columns: Vec<Vec<Value>> = table.inputs.iter().map(|_| Vec::with_capacity(rows.len())).collect();
        for row in rows {
            for ((column, value), (_, kind)) in columns.iter_mut().zip(row).zip(table.inputs) {
                column.push(kind.without_null(value));
            }
        }
        for (index, (column, (_, kind))) in columns.into_iter().zip(table.inputs).enumerate() {
            self.push(if index > 0 { ", " } else { "" });
            self.push_value(array(kind.array_type(), column));
            self.push(kind.cast());
        }
        self.push(") AS r(");
        for (index, (name, _)) in table.inputs.iter().enumerate() {
            self.push(if index > 0 { ", " } else { "" });
            self.push(name);
        }
        self.push(")");
    }

    fn insert_rows(&mut self, table: &Table, rows: &[Vec<Value>]) {
        self.push("VALUES ");
        for (index, row) in rows.iter().enumerate() {
            self.push(if index > 0 { ", (" } else { "(" });
            for (index, (_, expression)) in table.columns.iter().enumerate() {
                self.push(if index > 0 { ", " } else { "" });
                for part in expression.parts(self.backend) {
                    match part {
                        Part::Text(text) => self.push(&text),
                        Part::Input(input) => self.push_value(row[input].clone()),
                    }
                }
            }
            self.push(")");
        }
    }

    pub(crate) fn build(self) -> Statement {
        Statement::from_sql_and_values(self.backend.to_sea_orm(), self.text, self.values)
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn push_value(&mut self, value: Value) {
        self.values.push(value);
        if self.backend.binds_arrays() {
            self.text.push_str(&format!("${}", self.values.len()));
        } else {
            self.text.push('?');
        }
    }
}

fn array(kind: ArrayType, values: Vec<Value>) -> Value {
    Value::Array(kind, Some(Box::new(values)))
}

/// How rows of one table are inserted: what a row is given, and what its columns are computed from.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) inputs: &'static [(&'static str, Kind)],
    pub(crate) columns: &'static [(&'static str, Expression)],
}

/// The value of a column.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expression {
    /// Input number n as it is.
    Input(usize),
    /// Database time.
    Now,
    /// Input n, plus database time times input m (0 or 1).
    PlusNowTimes(usize, usize),
    /// The same for every row.
    Fixed(&'static str),
}

enum Part {
    Text(String),
    Input(usize),
}

impl Expression {
    fn parts(self, backend: Backend) -> Vec<Part> {
        match self {
            Self::Input(input) => vec![Part::Input(input)],
            Self::Now => vec![Part::Text(backend.now().to_owned())],
            Self::PlusNowTimes(base, times) => {
                vec![Part::Input(base), Part::Text(format!(" + {} * ", backend.now())), Part::Input(times)]
            }
            Self::Fixed(text) => vec![Part::Text(text.to_owned())],
        }
    }
}

/// The type of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Id,
    NullableId,
    Text,
    NullableText,
    Small,
    Int,
    Big,
    NullableNumber,
}

impl Kind {
    fn array_type(self) -> ArrayType {
        match self {
            Self::Id | Self::NullableId => ArrayType::Uuid,
            Self::Text | Self::NullableText => ArrayType::String,
            Self::Small => ArrayType::SmallInt,
            Self::Int => ArrayType::Int,
            Self::Big | Self::NullableNumber => ArrayType::BigInt,
        }
    }

    const fn cast(self) -> &'static str {
        match self {
            Self::Id | Self::NullableId => "::uuid[]",
            Self::Text | Self::NullableText => "::text[]",
            Self::Small => "::smallint[]",
            Self::Int => "::integer[]",
            Self::Big | Self::NullableNumber => "::bigint[]",
        }
    }

    fn without_null(self, value: Value) -> Value {
        match (self, value) {
            (Self::NullableText, Value::String(None)) => String::new().into(),
            (Self::NullableId, Value::Uuid(None)) => Uuid::nil().into(),
            (Self::NullableNumber, Value::BigInt(None)) => (-1_i64).into(),
            (_, value) => value,
        }
    }
}

/// Reads the columns of a row in the order of the `SELECT`.
pub(crate) struct Columns<'a> {
    row: &'a QueryResult,
    next: usize,
}

impl<'a> Columns<'a> {
    pub(crate) const fn new(row: &'a QueryResult) -> Self {
        Self { row, next: 0 }
    }

    /// The columns behind the first ones.
    pub(crate) const fn after(row: &'a QueryResult, first: usize) -> Self {
        Self { row, next: first }
    }

    pub(crate) fn take<T: TryGetable>(&mut self) -> Result<T, DbErr> {
        self.next += 1;
        self.row.try_get_by_index(self.next - 1)
    }
}
