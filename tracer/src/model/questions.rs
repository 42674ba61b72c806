//! What the mail thread leaves open, answered by the search, as text for `docs/assertions.md`.

use tracer_common::lock::assertion::{
    vma_assert_locked_lockdep_first, vma_assert_locked_merged, vma_assert_locked_v2,
};
use tracer_common::lock::refcnt::is_vma_writer_only;
use tracer_common::lock::{Family, Lockdep, VM_REFCNT_EXCLUDE_READERS_FLAG, VmaId, Word};

use super::check::{moves, reach};
use super::listing::{lock_state, replay, text};
use super::memory::Interleaved;
use super::scenario::{A, B, Bounds, LOW, Scenario, detacher, exclusion, reader, writer};
use super::script::{Instr, Role};
use super::search::Ending;
use super::state::{Running, State};
use super::verdicts::{Column, Standing, Survey, survey};

type Now = State<Interleaved>;
const VMA: VmaId = VmaId(0);
const FAMILY: Family = Family::Refcnt7_0;

/// All answers, as Markdown.
pub fn markdown() -> String {
    let mut page = Page::default();
    page.writer_only();
    page.only_us();
    page.second_version();
    let survey = survey(FAMILY, Bounds::default());
    page.lockdep_first(&survey);
    page.merged(&survey);
    page.wrong(&survey);
    page.out
}

#[derive(Default)]
struct Page {
    out: String,
}

fn standing(state: &Now, who: usize) -> Standing {
    Standing::of(state, &state.tasks[who], VMA)
}

fn anyone(state: &Now, is: impl Fn(Standing) -> bool) -> bool {
    (0..state.tasks().len()).any(|who| is(standing(state, who)))
}

fn writer_only(state: &Now) -> bool {
    is_vma_writer_only(state.newest(Word::Refcnt(VMA)))
}

fn referenced(state: &Now) -> usize {
    state
        .tasks()
        .iter()
        .filter(|t| t.reference() == Some(VMA))
        .count()
}

fn small() -> Scenario {
    Scenario::new(
        "question",
        "",
        FAMILY,
        vec![
            Role::new("reader", reader(A, LOW)),
            Role::new("detacher", detacher(A, LOW)),
        ],
    )
}

impl Page {
    fn say(&mut self, text: &str) {
        self.out += text;
        self.out += "\n\n";
    }

    /// The shortest schedule to a goal; panics if there is none, since the text claims one.
    fn show(&mut self, caption: &str, scenario: &Scenario, goal: impl Fn(&Now) -> bool) {
        let outcome = reach(scenario, goal);
        let moves = moves(&outcome).unwrap_or_else(|| panic!("no schedule: {caption}"));
        self.show_moves(caption, scenario, moves);
    }

    fn show_moves(&mut self, caption: &str, scenario: &Scenario, moves: &[super::search::Move]) {
        let lines = replay(scenario, moves);
        self.out += &format!(
            "{caption} ({} steps):\n\n```text\n{}```\n\n",
            lines.len(),
            text(scenario, &lines)
        );
    }

    /// Proves that no state is `bad`; panics with the schedule otherwise, since the text claims so.
    fn never(&mut self, claim: &str, scenarios: &[Scenario], bad: impl Fn(&Now) -> bool) {
        let mut states = 0;
        for scenario in scenarios {
            let outcome = reach(scenario, &bad);
            assert!(
                outcome.ending == Ending::Complete,
                "{claim}: {} {:?}",
                scenario.name,
                outcome.ending
            );
            states += outcome.states;
        }
        self.say(&format!("Proved in {states} states: {claim}"));
    }

    fn writer_only(&mut self) {
        self.say("### Can `is_vma_writer_only` be falsely positive, and for whom?");
        self.say(
            "**Confirmed, for a temporary reader of a VMA that is being detached.** The detacher waits for F, \
             the writer for F+1; the predicate accepts both, so F+1 in front of a detacher means one reader left.",
        );
        self.show("Shortest schedule", &small(), |s| {
            writer_only(s) && referenced(s) > 0
        });
        let bounds = bounded();
        self.never(
            "no task that has its read lock ever sees a positive answer; it sees F+2 or more while a writer waits.",
            &bounds,
            |s| writer_only(s) && anyone(s, |st| st == Standing::Reader),
        );
        self.never(
            "where the answer is positive and a reference is left, the value is F+1, and a detacher waits.",
            &bounds,
            |s| {
                let detaching = s
                    .tasks()
                    .iter()
                    .any(|t| matches!(t.running, Some(Running::Detach(_))));
                writer_only(s)
                    && referenced(s) > 0
                    && !(s.newest(Word::Refcnt(VMA)) == VM_REFCNT_EXCLUDE_READERS_FLAG + 1 && detaching)
            },
        );
    }

    fn only_us(&mut self) {
        self.say("### Is it so that \"it could be only us who is the temporary reader\"?");
        self.say(
            "**Confirmed for a task that holds a reference, refuted for others.** In such a state there is exactly \
             one reference, so a task that has one is that temporary reader; and `vma_start_read` asserts nothing. \
             But any task may see the value: the detacher itself does, while the reader is somebody else. It holds \
             the write lock, so what v2 then asserts is true.",
        );
        let bounds = bounded();
        self.never(
            "where the predicate is falsely positive, there is exactly one reference.",
            &bounds,
            |s| writer_only(s) && referenced(s) > 1,
        );
        self.show(
            "The state before it, count 1: here the count tells nobody of the reader, not even the baseline",
            &small(),
            |s| s.newest(Word::Refcnt(VMA)) == 1 && referenced(s) > 0,
        );
        self.never(
            "v2 is silent for every detacher that sees such a value.",
            &bounds,
            |s| {
                writer_only(s)
                    && referenced(s) > 0
                    && (0..s.tasks().len()).any(|who| {
                        standing(s, who) == Standing::Detacher
                            && matches!(s.tasks[who].running, Some(Running::Detach(_)))
                            && vma_assert_locked_v2(Lockdep::On, &lock_state(s, who, VMA)).fires()
                    })
            },
        );
        self.show(
            "A detacher sees it, and is not the temporary reader",
            &small(),
            |s| writer_only(s) && referenced(s) > 0 && standing(s, 1) == Standing::Detacher,
        );
    }

    fn second_version(&mut self) {
        self.say("### Does the second version fire falsely on a writer with a concurrent temporary reader?");
        self.say(
            "**Confirmed, with lockdep.** The mail does not mention it. A temporary reader makes the count 2 while \
             the VMA is write-locked; v2 takes that for a read lock and asks whether *this* task holds it. The writer \
             does not: VMA write locks are not tracked.",
        );
        let scenario = Scenario::new(
            "question",
            "",
            FAMILY,
            vec![
                Role::new("reader", reader(A, LOW)),
                Role::new("writer", writer(A, LOW)),
            ],
        );
        let fires = |s: &Now, lockdep| {
            (0..s.tasks().len()).any(|who| {
                standing(s, who) == Standing::Writer
                    && vma_assert_locked_v2(lockdep, &lock_state(s, who, VMA)).fires()
            })
        };
        self.show(
            "Shortest schedule; the writer asserts after the last step",
            &scenario,
            |s| fires(s, Lockdep::On),
        );
        let bounds = bounded();
        self.never("without lockdep v2 never fires on a writer.", &bounds, |s| {
            fires(s, Lockdep::Off)
        });
        self.never(
            "v2 never fires on a reader that has its lock, with lockdep or without.",
            &bounds,
            |s| {
                (0..s.tasks().len()).any(|who| {
                    let state = lock_state(s, who, VMA);
                    standing(s, who) == Standing::Reader
                        && [Lockdep::On, Lockdep::Off]
                            .iter()
                            .any(|&l| vma_assert_locked_v2(l, &state).fires())
                })
            },
        );
    }

    fn lockdep_first(&mut self, survey: &Survey) {
        self.say("### What does lockdep-first change?");
        self.say(
            "**It removes that false alarm and adds none.** With lockdep, the count no longer decides anything: \
             neither a temporary reader beside a writer nor the ambiguous F+1 matters. Without lockdep there is \
             nobody to ask, and it is the second version.",
        );
        self.claim_right(survey, "lockdep-first", Lockdep::On);
        let differs = |s: &Now| {
            (0..s.tasks().len()).any(|who| {
                let state = lock_state(s, who, VMA);
                vma_assert_locked_lockdep_first(Lockdep::On, &state)
                    != vma_assert_locked_merged(Lockdep::On, &state)
            })
        };
        self.never(
            "with lockdep, lockdep-first and merged never differ.",
            &bounded(),
            differs,
        );
    }

    fn claim_right(&mut self, survey: &Survey, name: &str, lockdep: Lockdep) {
        let columns = Column::all();
        let column = columns
            .iter()
            .find(|c| c.name == name && c.lockdep == lockdep)
            .expect("a column of that name");
        let wrong: Vec<_> = survey.wrong(column).collect();
        assert!(survey.complete && wrong.is_empty(), "{name}: wrong in {wrong:?}");
        self.say(&format!(
            "Proved in {} states of {} scenarios: with lockdep, {name} is silent for every holder and fires for everybody else.",
            survey.states,
            survey.scenarios.len()
        ));
    }

    fn merged(&mut self, survey: &Survey) {
        self.say("### Where does merged still differ with and without lockdep?");
        self.say(
            "**Without lockdep it is silent for tasks that hold nothing, in two ways, and it warns of a detached \
             VMA, which lockdep passes over.** With lockdep it is exact.",
        );
        self.claim_right(survey, "merged", Lockdep::On);
        let scenario = Scenario::new(
            "question",
            "",
            FAMILY,
            vec![
                Role::new("reader", reader(A, LOW)),
                Role::new("writer", writer(A, LOW)),
                // Only there to be asked; it does nothing to the VMA.
                Role::new("bystander", [Instr::SpeculateBegin(B)]),
            ],
        );
        let silent = |s: &Now| {
            let state = lock_state(s, 2, VMA);
            !vma_assert_locked_merged(Lockdep::Off, &state).fires()
        };
        self.show(
            "Silent for a bystander because another task reads",
            &scenario,
            |s| silent(s) && s.newest(Word::Refcnt(VMA)) > 1,
        );
        self.show(
            "Silent for a bystander because another task has it write-locked",
            &scenario,
            |s| silent(s) && s.newest(Word::Refcnt(VMA)) == 1,
        );
        self.show(
            "Warns of a detached VMA; with lockdep it is silent",
            &small(),
            |s| {
                let state = lock_state(s, 1, VMA);
                standing(s, 1) == Standing::Detacher
                    && vma_assert_locked_merged(Lockdep::Off, &state).fires()
                    && !vma_assert_locked_merged(Lockdep::On, &state).fires()
            },
        );
    }

    fn wrong(&mut self, survey: &Survey) {
        self.say("### The exact sets");
        self.say(&format!(
            "Every task and VMA in every one of {} states of {} scenarios ({}). A row is a class of states as the \
             asking task sees them; only rows that can be reached are listed. Temporary readers, tasks inside \
             `vma_start_write` or `vma_refcount_put`, and holders of a detached VMA are left out: the kernel asserts \
             nothing there, and what the variants say there is in the last table.",
            survey.states,
            survey.scenarios.len(),
            survey.scenarios.iter().map(|s| s.name).collect::<Vec<_>>().join(", "),
        ));
        self.out += "| assertion | lockdep | wrong | asking task | vm_refcnt | seq equal | mmap_lock |\n|---|---|---|---|---|---|---|\n";
        for column in Column::all() {
            let lockdep = if column.lockdep == Lockdep::On {
                "on"
            } else {
                "off"
            };
            let mut any = false;
            for (row, _, fires) in survey.wrong(&column) {
                any = true;
                self.out += &format!(
                    "| {} | {lockdep} | {} | {} | {} | {} | {} |\n",
                    column.name,
                    if fires { "fires" } else { "silent" },
                    row.standing.name(),
                    row.refcnt.name(),
                    if row.eq { "yes" } else { "no" },
                    row.mmap.name(),
                );
            }
            if !any {
                self.out += &format!("| {} | {lockdep} | never | | | | |\n", column.name);
            }
        }
        self.say("");
        self.unclaimed(survey);
    }

    fn unclaimed(&mut self, survey: &Survey) {
        self.say("Where the kernel makes no claim (F fires, . silent; baseline, v2, lockdep-first, merged):");
        self.out += "| asking task | vm_refcnt | seq equal | mmap_lock | lockdep on | lockdep off |\n|---|---|---|---|---|---|\n";
        for (row, example) in &survey.rows {
            if Column::all()[0]
                .should_fire(row.standing, &example.state)
                .is_some()
            {
                continue;
            }
            let verdicts = super::listing::verdicts(&example.state);
            let (on, off) = verdicts.split_once(' ').unwrap_or((&verdicts, ""));
            self.out += &format!(
                "| {} | {} | {} | {} | `{on}` | `{off}` |\n",
                row.standing.name(),
                row.refcnt.name(),
                if row.eq { "yes" } else { "no" },
                row.mmap.name(),
            );
        }
    }
}

/// The bounds that "proved" refers to.
fn bounded() -> Vec<Scenario> {
    let recycling = super::scenario::all(FAMILY, Bounds::default())
        .into_iter()
        .filter(|s| {
            matches!(
                s.name,
                "recycling" | "recycling-both" | "downgrade" | "killed-writer" | "fallback"
            )
        });
    std::iter::once(exclusion(FAMILY, Bounds::default()))
        .chain(recycling)
        .collect()
}
