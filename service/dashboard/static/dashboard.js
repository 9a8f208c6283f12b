// Everything works without scripts but for what changes by itself: each module adds to what the page already does.
import "./live.js";
import "./masks.js";
import "./keyboard.js";
import "./forms.js";
