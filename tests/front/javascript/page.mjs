// A page of somebody's own: fal's client through our proxy, from a browser and from another origin.
import { fal } from "@fal-ai/client";

globalThis.runEverything = async ({ url, key, model, prompt, mode }) => {
  fal.config({ credentials: key, suppressLocalCredentialsWarning: true, proxyUrl: `${url}/fal/proxy` });
  const canvas = new OffscreenCanvas(32, 24);
  canvas.getContext("2d").fillRect(0, 0, 16, 24);
  const picture = await canvas.convertToBlob({ type: "image/png" });
  const statuses = [];
  const result = await fal.subscribe(model, {
    input: { image_url: picture, prompt },
    mode,
    logs: true,
    onQueueUpdate: (update) => statuses.push(update.status),
  });
  const refused = await fal.run(model, { input: { prompt } }).catch(({ status, requestId }) => ({ status, requestId }));
  return { data: result.data, requestId: result.requestId, statuses, size: picture.size, refused };
};
