import { asked, fal, say } from "./setup.mjs";

const statuses = [];
const messages = [];
const ids = [];
const result = await fal.subscribe(asked.model, {
  input: asked.input,
  mode: asked.mode ?? "polling",
  logs: true,
  onEnqueue: (id) => ids.push(id),
  onQueueUpdate: (update) => {
    statuses.push(update.status);
    if (update.status !== "IN_QUEUE") messages.push(...update.logs.map((log) => log.message));
  },
});
say({ data: result.data, requestId: result.requestId, enqueued: ids, statuses, messages });
