// What went wrong, by kind: why, what it means for money, and the command that deals with it.
const LISTED_AT_ONCE = 50;
const offered = data.commands;
// A ledger of version 0.1, or of a run from Python, does not say what was typed: then only what to add to it.
const again = (name, added = "") => offered[name] || { added };

const KINDS = [
  { state: "unknown", of: (job) => job.state === "unknown", title: "Unknown: the POST left and no clear answer came",
    why: "Each may have been created and charged. Look it up in the vendor's list of requests (RunComfy: the Generations page of your account), then settle it; or buy it once more, whatever became of the first.",
    commands: (found) => [`${offered.resolve} ${found[0].job} --request-id ID`, `${offered.resolve} ${found[0].job} --not-created`, again("retry_unknown", "--retry-unknown")] },
  { state: "failed", of: (job) => job.state === "failed" && job.stage === "generate" && !job.refused, title: "Failed while generating",
    why: "The API took the request and gave no output. Trying again asks for the old result once more, and buys a new one only after a final no.",
    commands: () => [again("retry_failed", "--retry-failed")] },
  { state: "failed", of: (job) => job.state === "failed" && job.stage === "generate" && job.refused, title: "Refused while generating",
    why: "The API judged the inputs: its content rules forbid them, or they are invalid. The same ones would be refused again, and may be charged again. Mend them in the manifest.",
    commands: () => [again("retry_refused", "--retry-refused")] },
  { state: "failed", of: (job) => job.state === "failed" && job.stage === "submit", title: "Refused when submitted",
    why: "Nothing was created and nothing charged. Mend the inputs in the manifest first: the same ones would be refused again.",
    commands: () => [again("retry_failed", "--retry-failed")] },
  { state: "failed", of: (job) => job.state === "failed" && job.stage === "download", title: "Generated, but not downloaded",
    why: "These are paid for. The same command asks for the result again and downloads it, at no further cost.",
    commands: () => [again("download")] },
  { state: "cancelled", of: (job) => job.state === "cancelled", title: "Cancelled at the API", why: "Left alone until you say otherwise.",
    commands: () => [again("retry_failed", "--retry-failed")] },
  { state: "unknown", of: (job) => job.state === "done" && job.quality, title: "Done, but not what was asked for",
    why: "The files came whole, and a look into them found something. They stay in the dataset with a note in the column quality. Leave them out of an export, or buy them again within the budget and the attempts.",
    commands: () => [`${offered.export} DEST --filter 'quality == None'`, again("redo_poor", "--only @poor.txt --redo")], list: "poor.txt" },
  { state: "pending", of: (job) => job.state === "pending" && job.message, title: "Turned away, to be submitted again",
    why: "The API surely did not accept these: nothing was charged. The same command goes on with them.", commands: () => [again("resume")] },
];

const problemCount = () => KINDS.slice(0, 7).reduce((sum, kind) => sum + jobs.filter(kind.of).length, 0);

function drawProblems(panel) {
  const cards = KINDS.map((kind) => issueOf(kind, jobs.filter(kind.of))).filter(Boolean);
  const none = h("div", { class: "empty" }, h("b", {}, "Nothing went wrong"), "No job failed, none is unknown, and no output was found wanting.");
  panel.replaceChildren(cards.length ? h("div", { class: "stack" }, cards) : none);
}

function issueOf(kind, found) {
  if (!found.length) return null;
  const commands = kind.commands(found).map(commandOf);
  return h("section", { class: `issue s-${kind.state}` },
    h("h3", {}, kind.title, h("span", { class: "count" }, number(found.length))),
    h("p", {}, kind.why),
    commands,
    kind.list && h("div", { class: "bar" }, h("button", { class: "button", type: "button", onclick: () => saveList(found.map((job) => job.job), kind.list) }, `Save ${plural(found.length, "id")} as ${kind.list}`)),
    reasonsOf(found));
}

function commandOf(text) {
  if (text.added !== undefined) return h("p", {}, "Repeat the command of the run", text.added && " with ", text.added && h("code", {}, text.added), ".");
  // Lines break between words, not behind the dashes of an option.
  const words = text.split(" ").flatMap((word, at) => (at ? [" ", h("span", {}, word)] : [h("span", {}, word)]));
  return h("div", { class: "command" }, h("code", {}, words), copier(text));
}

function reasonsOf(found) {
  const groups = new Map();
  for (const job of found) {
    const reason = [job.code, job.quality || job.message || "this program ended before the answer"].filter((part) => part !== undefined).join(": ");
    groups.set(reason, [...(groups.get(reason) || []), job]);
  }
  const sorted = [...groups].sort((a, b) => b[1].length - a[1].length);
  return sorted.slice(0, LISTED_AT_ONCE).map(([reason, members], at) =>
    h("details", { open: at === 0 && members.length <= 5 }, h("summary", {}, `${reason} `, h("span", { class: "count" }, number(members.length))), membersOf(members)));
}

function membersOf(members) {
  const items = h("ul"), more = h("button", { class: "button", type: "button" }, "Show more");
  const grow = () => {
    const from = items.children.length;
    for (const job of members.slice(from, from + LISTED_AT_ONCE)) items.append(memberOf(job));
    more.hidden = items.children.length >= members.length;
  };
  more.addEventListener("click", grow);
  grow();
  return [items, more];
}

function memberOf(job) {
  const open = () => openDetail(entries.filter((entry) => entry.job === job), 0);
  return h("li", {}, h("button", { class: "mono", type: "button", onclick: open }, job.job),
    h("div", {}, job.prompt && h("bdi", { class: "clamp", title: job.prompt }, job.prompt), h("div", { class: "soft" }, [job.submitted_ms && `sent ${moment(job.submitted_ms)}`, job.source].filter(Boolean).join(" · "))));
}
