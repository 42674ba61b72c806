//! The thread that encodes batches into files.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, bail};
use parquet::data_type::{BoolType, Int32Type, Int64Type};
use parquet::file::properties::WriterPropertiesPtr;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::TypePtr;

use super::columns::{Batch, Column, Fixed};
use super::schema::Table;
use super::texts::TextWriter;
use crate::disk;
use crate::export::{Output, Whole};
use crate::outside;

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
#[derive(Debug)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    /// The host, as a part of a path.
    pub(super) host: String,
    /// What no other recording of that host has.
    pub(super) recording: String,
    pub(super) properties: WriterPropertiesPtr,
    pub(super) schemas: [TypePtr; 3],
    pub(super) texts: Fixed,
}

/// What the thread is told.
enum Message {
    Rows(Job),
    /// All is there. Without this, nothing of it gets to its place.
    Done,
}

/// The thread.
pub(super) struct Encoder {
    jobs: Option<SyncSender<Message>>,
    /// Batches that were encoded.
    done: Receiver<(Table, Batch)>,
    /// Those of them that may be filled again, by table: to give memory back and get it anew costs more than to fill it.
    empty: [Vec<Batch>; 3],
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Encoder {
    pub(super) fn start(place: Place) -> anyhow::Result<Self> {
        let (jobs, queue) = sync_channel(QUEUE);
        let (give_back, done) = channel();
        let thread = thread::Builder::new()
            .name("parquet".to_owned())
            .spawn(move || encode(&place, &queue, &give_back))
            .context("cannot start a thread")?;
        Ok(Self {
            jobs: Some(jobs),
            done,
            empty: Default::default(),
            thread: Some(thread),
        })
    }

    /// A batch of that table to be filled again, if one has been encoded.
    pub(super) fn empty(&mut self, table: Table) -> Option<Batch> {
        for (table, batch) in self.done.try_iter() {
            self.empty[table as usize].push(batch);
        }
        self.empty[table as usize].pop()
    }

    pub(super) fn send(&mut self, job: Job) -> anyhow::Result<()> {
        self.tell(Message::Rows(job))
    }

    fn tell(&mut self, message: Message) -> anyhow::Result<()> {
        let jobs = self.jobs.as_ref();
        let sent = jobs.is_some_and(|jobs| jobs.send(message).is_ok());
        // A thread that takes nothing more has something to say.
        if sent { Ok(()) } else { self.join() }
    }

    /// Waits until all is written and the files are in their places.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        self.tell(Message::Done)?;
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

impl Drop for Encoder {
    /// Waits until what was given up is gone from the disk.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
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

fn encode(
    place: &Place,
    queue: &Receiver<Message>,
    give_back: &Sender<(Table, Batch)>,
) -> anyhow::Result<()> {
    let mut open: [Open; 3] = Default::default();
    let mut texts = TextWriter::new();
    let mut whole = Vec::new();
    loop {
        let mut job = match queue.recv() {
            Ok(Message::Rows(job)) => job,
            Ok(Message::Done) => break,
            // Something failed elsewhere: what was written goes away, and earlier files stay as they are.
            Err(_) => return Ok(()),
        };
        let open = &mut open[job.table as usize];
        if open.date != job.date || open.groups >= GROUPS {
            whole.extend(open.close()?);
        }
        if open.file.is_none() {
            open.file = Some(place.file(&job, open.parts)?);
            open.date.clone_from(&job.date);
            open.parts += 1;
            open.groups = 0;
        }
        if let Some(file) = &mut open.file {
            write(file, &job.batch, &mut texts, &place.texts)
                .with_context(|| format!("writing a table of {}", job.table.name()))?;
            open.groups += 1;
        }
        job.batch.clear();
        // Nobody waits for it once all is there.
        let _ = give_back.send((job.table, job.batch));
    }
    for open in &mut open {
        whole.extend(open.close()?);
    }
    let new: HashSet<PathBuf> = whole.iter().map(|file| file.path().to_owned()).collect();
    whole.into_iter().try_for_each(Whole::place)?;
    place.remove_old(&new)
}

impl Open {
    fn close(&mut self) -> anyhow::Result<Option<Whole>> {
        match self.file.take() {
            Some(file) => file.into_inner()?.close(),
            None => Ok(None),
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
        disk::Folder::make(&folder)
            .with_context(|| format!("cannot make the folder {}", outside::path(&folder)))?;
        let path = folder.join(format!("{}-{part}.parquet", self.recording));
        let output = Output::create(&path)?;
        let schema = self.schemas[table as usize].clone();
        Ok(SerializedFileWriter::new(
            output,
            schema,
            self.properties.clone(),
        )?)
    }

    /// Removes parts of an earlier export of the same recording that have no successor among `new`, and would count twice.
    fn remove_old(&self, new: &HashSet<PathBuf>) -> anyhow::Result<()> {
        for table in Table::ALL {
            let host = self.folder.join(table.name()).join(format!("host={}", self.host));
            for day in fs::read_dir(host).into_iter().flatten().flatten() {
                // Names may have been listed somewhere else; they are removed from where we write.
                let Ok(folder) = disk::Folder::open(&day.path()) else {
                    continue;
                };
                for file in fs::read_dir(day.path()).into_iter().flatten().flatten() {
                    let name = file.file_name();
                    let own = name.to_str().is_some_and(|name| {
                        name.strip_prefix(&self.recording)
                            .is_some_and(|rest| rest.starts_with('-') && rest.ends_with(".parquet"))
                    });
                    let path = file.path();
                    if own && !new.contains(&path) {
                        folder
                            .remove(&name)
                            .with_context(|| format!("cannot replace {}", outside::path(&path)))?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn write(
    file: &mut SerializedFileWriter<Output>,
    batch: &Batch,
    texts: &mut TextWriter,
    fixed: &Fixed,
) -> anyhow::Result<()> {
    let descriptions = file.schema_descr().columns().to_vec();
    let mut group = file.next_row_group()?;
    for (column, descr) in batch.columns.iter().zip(&descriptions) {
        if let Column::Text(values, levels, pool) = column {
            let rows = (values.as_slice(), levels.as_deref());
            texts.write(&mut group, descr, rows, batch.pool(*pool, fixed))?;
            continue;
        }
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
            Column::Text(..) => {}
        }
        writer.close()?;
    }
    group.close()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::parquet::schema;
    use std::path::Path;

    fn encoder(folder: &Path) -> Encoder {
        Encoder::start(Place {
            folder: folder.to_owned(),
            host: "h".into(),
            recording: "7".into(),
            properties: schema::properties(Vec::new()),
            schemas: Table::ALL.map(|table| table.schema().unwrap()),
            texts: core::array::from_fn(|_| vec!["x".into()]),
        })
        .unwrap()
    }

    /// One row with nothing in it but what has to be there.
    fn job(table: Table, date: &str) -> Job {
        let mut batch = schema::batch(&table.schema().unwrap());
        batch.rows = 1;
        batch.comms.get([0; 16], || "x".to_owned());
        for column in &mut batch.columns {
            match column {
                Column::Int32(values, None) => values.push(1),
                Column::Int64(values, None) => values.push(1),
                Column::Bool(values, None) => values.push(true),
                Column::Text(values, None, _) => values.push(0),
                Column::Int32(_, Some(levels))
                | Column::Int64(_, Some(levels))
                | Column::Bool(_, Some(levels))
                | Column::Text(_, Some(levels), _) => levels.push(0),
            }
        }
        Job {
            table,
            date: date.into(),
            batch,
        }
    }

    /// All files below a folder, and how long they are.
    fn all(folder: &Path) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                found.extend(all(&entry.path()));
            } else {
                found.push((
                    entry.path().display().to_string(),
                    entry.metadata().unwrap().len(),
                ));
            }
        }
        found.sort();
        found
    }

    #[test]
    fn tables_come_to_their_places_at_the_end_and_replace_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("events/host=h/date=2026-11-22");
        fs::create_dir_all(&old).unwrap();
        for name in ["7-0.parquet", "7-1.parquet", "70-0.parquet"] {
            fs::write(old.join(name), name).unwrap();
        }
        let before = all(folder.path());
        let mut given_up = encoder(folder.path());
        given_up.send(job(Table::Events, "2026-11-22")).unwrap();
        given_up.send(job(Table::Holds, "2026-11-23")).unwrap();
        drop(given_up);
        assert_eq!(all(folder.path()), before);

        let mut encoder = encoder(folder.path());
        encoder.send(job(Table::Events, "2026-11-22")).unwrap();
        encoder.send(job(Table::Events, "2026-11-23")).unwrap();
        encoder.finish().unwrap();
        let names: Vec<_> = all(folder.path()).into_iter().map(|(name, _)| name).collect();
        let ends: Vec<_> = names
            .iter()
            .map(|name| &name[name.find("date=").unwrap()..])
            .collect();
        assert_eq!(
            ends,
            [
                "date=2026-11-22/7-0.parquet",
                "date=2026-11-22/70-0.parquet",
                "date=2026-11-23/7-1.parquet"
            ]
        );
        assert_ne!(fs::read(&names[0]).unwrap(), b"7-0.parquet");
    }
}
