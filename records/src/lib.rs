//! Plain data between the stages of selfplay, no tensors.
//!
//! One iteration is **prompts → candidates → preferences → pairs → policy**. The first four nouns are rows of
//! files and live here, one file each; [`read_rows`] and [`write_rows`] take JSON Lines or Parquet by the
//! file's ending. Every file that selfplay keeps is written by [`atomic`]: whole or not at all.
//!
//! Rows of others are read too: [`read_prompts`] takes any column, [`datasets`] the layouts that preference and instruction
//! data are published in.

pub mod atomic;
mod candidate;
mod checksum;
mod column_type;
mod completion;
pub mod counter;
pub mod datasets;
mod delimited;
mod error;
mod extra;
mod fault;
pub mod guard;
mod ids;
mod instruction;
mod io;
mod jsonl;
mod kind;
mod large_integer;
mod layout;
mod limits;
mod log_prob;
mod message;
mod pair;
mod parquet;
pub mod partial;
mod preference;
mod prompt;
mod prompt_file;
mod raw_row;
mod regular;
mod row;
mod row_places;
mod scratch;
mod settings;
pub mod shown;
mod temporaries;
mod token_row;
mod transcript;
mod write_error;

pub use candidate::{Candidates, FinishReason, Response};
pub use column_type::{ColumnSpec, ColumnType};
pub use completion::{Completion, ExampleKind};
pub use datasets::{ReadPairs, read_pairs};
pub use delimited::read_csv_texts;
pub use error::{FieldProblem, RecordError};
pub use instruction::Instruction;
pub use io::{
    count_rows, each_columns, read_columns, read_list_lengths, read_rows, read_rows_at, read_values,
    stream_rows, write_rows,
};
pub use kind::{HasKind, Kind};
pub use limits::COLUMNS as MOST_COLUMNS;
pub use log_prob::LogProbRow;
pub use message::Message;
pub use pair::Pair;
pub use parquet::ListLengths;
pub use preference::Preference;
pub use prompt::{OnBadPrompt, Prompt};
pub use prompt_file::{
    PromptRow, ReadPromptRows, ReadPrompts, read_prompt_files, read_prompt_files_whole, read_prompt_rows,
    read_prompts,
};
pub use regular::{open_regular, read_regular, read_regular_text};
pub use row::Row;
pub use scratch::scratch_file;
pub use settings::{Problem, Problems};
pub use token_row::TokenRow;
pub use write_error::{WriteError, hint_of};
