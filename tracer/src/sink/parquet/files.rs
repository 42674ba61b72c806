//! The thread that encodes batches into files.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, bail};
use parquet::data_type::{BoolType, ByteArrayType, Int32Type, Int64Type};
use parquet::file::properties::WriterPropertiesPtr;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::TypePtr;

use super::columns::{Batch, Column};
use super::schema::Table;
use crate::export::Output;

/// Batches that wait to be encoded: memory is bounded by this.
const QUEUE: usize = 1;
/// What a file knows of its row groups is in memory until it ends, so it ends after so many.
const GROUPS: usize = 64;

/// Rows of one table and one day.
pub(super) struct Job {
    pub(super) table: Table,
    pub(super) date: String,
    pub(super) batch: Batch,
}

/// Where the files of one recording go.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    /// The host, as a part of a path.
    pub(super) host: String,
    /// What no other recording of that host has.
    pub(super) recording: String,
    pub(super) properties: WriterPropertiesPtr,
    pub(super) schemas: [TypePtr; 3],
}

/// The thread.
pub(super) struct Encoder {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Encoder {
    pub(super) fn start(place: Place) -> anyhow::Result<Self> {
        let (jobs, queue) = sync_channel(QUEUE);
        let thread = thread::Builder::new()
            .name("parquet".to_owned())
            .spawn(move || encode(&place, &queue))
            .context("cannot start a thread")?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    pub(super) fn send(&mut self, job: Job) -> anyhow::Result<()> {
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if sent { Ok(()) } else { self.join() }
    }

    /// Waits until all is written and the files are in their places.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        let jobs = self.jobs.take();
        drop(jobs);
        self.join()
    }

    fn join(&mut self) -> anyhow::Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => bail!("the thread that writes the tables failed"),
            None => bail!("the tables could not be written"),
        }
    }
}

/// The file that is being written of one table.
#[derive(Default)]
struct Open {
    file: Option<SerializedFileWriter<Output>>,
    date: String,
    groups: usize,
    /// Files of this table so far.
    parts: usize,
}

fn encode(place: &Place, queue: &Receiver<Job>) -> anyhow::Result<()> {
    let mut open: [Open; 3] = Default::default();
    while let Ok(job) = queue.recv() {
        let open = &mut open[job.table as usize];
        if open.date != job.date || open.groups >= GROUPS {
            open.close()?;
        }
        if open.file.is_none() {
            open.file = Some(place.file(&job, open.parts)?);
            open.date.clone_from(&job.date);
            open.parts += 1;
            open.groups = 0;
        }
        if let Some(file) = &mut open.file {
            write(file, &job.batch).with_context(|| format!("writing a table of {}", job.table.name()))?;
            open.groups += 1;
        }
    }
    open.iter_mut().try_for_each(Open::close)
}

impl Open {
    fn close(&mut self) -> anyhow::Result<()> {
        match self.file.take() {
            Some(file) => file.into_inner()?.finish(),
            None => Ok(()),
        }
    }
}

impl Place {
    fn file(&self, job: &Job, part: usize) -> anyhow::Result<SerializedFileWriter<Output>> {
        let table = job.table;
        let folder = self
            .folder
            .join(table.name())
            .join(format!("host={}", self.host))
            .join(format!("date={}", job.date));
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let path = folder.join(format!("{}-{part}.parquet", self.recording));
        let output = Output::create(&path)?;
        let schema = self.schemas[table as usize].clone();
        Ok(SerializedFileWriter::new(
            output,
            schema,
            self.properties.clone(),
        )?)
    }

    /// Removes parts of an earlier and longer export of the same recording, which would count twice.
    pub(super) fn remove_old(&self) -> anyhow::Result<()> {
        for table in Table::ALL {
            let host = self.folder.join(table.name()).join(format!("host={}", self.host));
            for day in fs::read_dir(host).into_iter().flatten().flatten() {
                for file in fs::read_dir(day.path()).into_iter().flatten().flatten() {
                    let name = file.file_name();
                    let own = name.to_str().is_some_and(|name| {
                        name.strip_prefix(&self.recording)
                            .is_some_and(|rest| rest.starts_with('-') && rest.ends_with(".parquet"))
                    });
                    if own {
                        let path = file.path();
                        fs::remove_file(&path)
                            .with_context(|| format!("cannot replace {}", path.display()))?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn write(file: &mut SerializedFileWriter<Output>, batch: &Batch) -> anyhow::Result<()> {
    let mut group = file.next_row_group()?;
    for column in &batch.columns {
        let mut writer = group
            .next_column()?
            .context("a table has more columns than its schema")?;
        match column {
            Column::Int32(values, levels) => {
                writer
                    .typed::<Int32Type>()
                    .write_batch(values, levels.as_deref(), None)?;
            }
            Column::Int64(values, levels) => {
                writer
                    .typed::<Int64Type>()
                    .write_batch(values, levels.as_deref(), None)?;
            }
            Column::Bool(values, levels) => {
                writer
                    .typed::<BoolType>()
                    .write_batch(values, levels.as_deref(), None)?;
            }
            Column::Text(values, levels) => {
                writer
                    .typed::<ByteArrayType>()
                    .write_batch(values, levels.as_deref(), None)?;
            }
        }
        writer.close()?;
    }
    group.close()?;
    Ok(())
}
