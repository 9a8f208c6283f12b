import { asked, fal, say } from "./setup.mjs";

const { model, input } = asked;
const submitted = await fal.queue.submit(model, { input, webhookUrl: asked.webhookUrl, priority: "low", hint: "h-1" });
const requestId = submitted.request_id;
const first = await fal.queue.status(model, { requestId, logs: true });
const early = await fal.queue.result(model, { requestId }).catch((error) => ({ status: error.status, message: error.message }));
let status = first;
while (asked.waits && status.status !== "COMPLETED") {
  await new Promise((resolve) => setTimeout(resolve, 50));
  status = await fal.queue.status(model, { requestId, logs: true });
}
const cancelled = asked.cancels
  ? await fal.queue.cancel(model, { requestId }).then(() => "done", (error) => error.status)
  : undefined;
const result = asked.waits ? await fal.queue.result(model, { requestId }) : undefined;
say({ submitted, first, early, status, cancelled, result });
