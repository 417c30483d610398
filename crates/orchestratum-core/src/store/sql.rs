//! Statements put together from text and bound values. No value ever becomes text.

use sea_orm::sea_query::ArrayType;
use sea_orm::{DbErr, QueryResult, Statement, TryGetable, Value};
use uuid::Uuid;

use crate::store::backend::{Backend, Lists};

/// For `orchestratum_ended`: what the index of those that did not complete is made of. SQLite takes a partial index only
/// for a statement that repeats its condition.
pub(crate) const NOT_COMPLETED: &str = " AND state <> 'completed'";

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

    /// `INSERT INTO table (columns) …` for all rows.
    pub(crate) fn insert(mut self, table: &Table, inputs: Vec<Column>) -> Self {
        self.insert_into(table);
        let rows = inputs.iter().map(Column::rows).max().unwrap_or_default();
        if rows == 1 && !self.backend.binds_arrays() {
            self.push("VALUES (");
            self.row(table, &inputs);
            self.push(")");
        } else {
            self.insert_selected(table, inputs);
        }
        self
    }

    /// `INSERT INTO table (columns) SELECT …` for one row; conditions may follow.
    pub(crate) fn insert_one(mut self, table: &Table, inputs: &[Column]) -> Self {
        self.insert_into(table);
        self.push("SELECT ");
        self.row(table, inputs);
        self
    }

    fn insert_into(&mut self, table: &Table) {
        self.push("INSERT INTO ");
        self.push(table.name);
        self.push(" (");
        for (index, column) in table.columns.iter().enumerate() {
            self.push(if index > 0 { ", " } else { "" });
            self.push(column.0);
        }
        self.push(") ");
    }

    fn row(&mut self, table: &Table, inputs: &[Column]) {
        self.expressions(table, |sql, input| match inputs[input].first() {
            Some(value) if !is_null(value) => sql.push_value(value.clone()),
            _ => sql.push("NULL"),
        });
    }

    /// What all rows share stands in the `SELECT`, the rest in its source.
    fn insert_selected(&mut self, table: &Table, inputs: Vec<Column>) {
        let (mut texts, mut columns) = (Vec::new(), Vec::new());
        for (input, (_, kind)) in std::iter::zip(inputs, table.inputs) {
            texts.push(match input {
                Column::Same(value) if is_null(&value) => Source::Text("NULL".to_owned()),
                Column::Same(value) => Source::Bound(value, *kind),
                Column::Each(values) => {
                    columns.push((*kind, values));
                    Source::Text(self.backend.listed(&format!("r.column{}", columns.len()), *kind))
                }
            });
        }
        self.push("SELECT ");
        self.expressions(table, |sql, input| match &texts[input] {
            Source::Text(text) => sql.push(text),
            Source::Bound(value, kind) => {
                sql.push_value(value.clone());
                if sql.backend.binds_arrays() {
                    sql.push(&format!("::{}", kind.sql()));
                }
            }
        });
        self.push(" FROM ");
        match self.backend.lists() {
            Lists::Arrays => self.select_from_arrays(columns),
            Lists::Json => self.select_from_json(columns),
            Lists::Values => self.select_from_values(columns),
        }
    }

    fn select_from_arrays(&mut self, columns: Vec<(Kind, Vec<Value>)>) {
        let names: Vec<String> = (1..=columns.len()).map(|number| format!("column{number}")).collect();
        self.push("unnest(");
        for (index, (kind, values)) in columns.into_iter().enumerate() {
            self.push(if index > 0 { ", " } else { "" });
            let values = values.into_iter().map(|value| kind.without_null(value)).collect();
            self.push_value(array(kind.array_type(), values));
            self.push(&format!("::{}[]", kind.sql()));
        }
        self.push(&format!(") AS r({})", names.join(", ")));
    }

    /// One value to bind, and one shape of the statement for any number of rows: each shape is prepared once a connection,
    /// and remembered on both sides of it.
    fn select_from_json(&mut self, columns: Vec<(Kind, Vec<Value>)>) {
        let mut types = Vec::with_capacity(columns.len());
        let rows = columns.iter().map(|(_, values)| values.len()).max().unwrap_or_default();
        let mut lists = vec![Vec::with_capacity(columns.len()); rows];
        for (index, (kind, values)) in columns.into_iter().enumerate() {
            types.push(format!("column{} {} PATH '$[{index}]'", index + 1, kind.json_table()));
            for (list, value) in std::iter::zip(&mut lists, values) {
                list.push(json(kind.without_null(value)));
            }
        }
        self.push("JSON_TABLE(");
        self.push_value(serde_json::Value::from(lists).to_string().into());
        self.push(&format!(", '$[*]' COLUMNS ({})) AS r", types.join(", ")));
    }

    /// SQLite names the columns of a list `column1`, `column2`, … The condition keeps an `ON CONFLICT` that follows from
    /// being read as that of a join.
    fn select_from_values(&mut self, columns: Vec<(Kind, Vec<Value>)>) {
        let rows = columns.iter().map(|(_, values)| values.len()).max().unwrap_or_default();
        let mut columns: Vec<_> = columns.into_iter().map(|(_, values)| values.into_iter()).collect();
        self.push("(VALUES ");
        for row in 0..rows {
            self.push(if row > 0 { ", (" } else { "(" });
            for (index, values) in columns.iter_mut().enumerate() {
                self.push(if index > 0 { ", " } else { "" });
                self.push_value(values.next().unwrap_or(Value::Int(None)));
            }
            self.push(")");
        }
        self.push(") AS r WHERE true");
    }

    /// The expressions of a row, with the inputs in their places.
    fn expressions(&mut self, table: &Table, mut input: impl FnMut(&mut Self, usize)) {
        let now = self.backend.now();
        for (index, (_, expression)) in table.columns.iter().enumerate() {
            self.push(if index > 0 { ", " } else { "" });
            match *expression {
                Expression::Input(number) => input(self, number),
                Expression::Now => self.push(now),
                Expression::PlusNowTimes(base, times) => {
                    input(self, base);
                    self.push(" + ");
                    self.push(now);
                    self.push(" * ");
                    input(self, times);
                }
                Expression::Fixed(text) => self.push(text),
            }
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

/// One input of all rows that are inserted.
#[derive(Debug)]
pub(crate) enum Column {
    /// Every row has this value.
    Same(Value),
    /// One value a row.
    Each(Vec<Value>),
}

impl Column {
    /// One value a row, also where they happen to be the same: each insert needs such an input, to know its rows.
    pub(crate) fn each<T: Into<Value>>(values: impl Iterator<Item = T>) -> Self {
        Self::Each(values.map(Into::into).collect())
    }

    /// The value that all rows share, or one a row.
    pub(crate) fn of<T: Into<Value> + PartialEq>(values: impl Iterator<Item = T> + Clone) -> Self {
        let mut others = values.clone();
        match others.next() {
            Some(first) if others.all(|other| other == first) => Self::Same(first.into()),
            _ => Self::each(values),
        }
    }

    fn first(&self) -> Option<&Value> {
        match self {
            Self::Same(value) => Some(value),
            Self::Each(values) => values.first(),
        }
    }

    const fn rows(&self) -> usize {
        match self {
            Self::Same(_) => 0,
            Self::Each(values) => values.len(),
        }
    }
}

/// What stands in the place of an input in a `SELECT`.
enum Source {
    Text(String),
    Bound(Value, Kind),
}

fn is_null(value: &Value) -> bool {
    matches!(value, Value::String(None) | Value::Uuid(None) | Value::BigInt(None))
}

/// A value of a list, as [`Kind::json_table`] reads it.
fn json(value: Value) -> serde_json::Value {
    match value {
        Value::String(Some(text)) => text.into(),
        Value::Uuid(Some(id)) => id.simple().to_string().into(),
        Value::SmallInt(Some(number)) => number.into(),
        Value::Int(Some(number)) => number.into(),
        Value::BigInt(Some(number)) => number.into(),
        _ => serde_json::Value::Null,
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

    const fn sql(self) -> &'static str {
        match self {
            Self::Id | Self::NullableId => "uuid",
            Self::Text | Self::NullableText => "text",
            Self::Small => "smallint",
            Self::Int => "integer",
            Self::Big | Self::NullableNumber => "bigint",
        }
    }

    /// The type of a column of `JSON_TABLE`. A text's characters are named: otherwise they are those of the database, where
    /// `latin1` is still a default, and all others become question marks.
    const fn json_table(self) -> &'static str {
        match self {
            Self::Id | Self::NullableId => "CHAR(32)",
            Self::Text | Self::NullableText => "LONGTEXT CHARACTER SET utf8mb4",
            Self::Small | Self::Int | Self::Big | Self::NullableNumber => "BIGINT",
        }
    }

    /// In place of NULL, which lists do not have everywhere: no nullable text of ours is ever empty.
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
