// Writes through ioredis' Sentinel connector until standard input ends. See ../README.md for what it is told and says.
"use strict";

const Redis = require("ioredis");

const [sentinels, name, password] = process.argv.slice(2);
const places = sentinels.split(",").map((place) => {
  const at = place.lastIndexOf(":");
  return { host: place.slice(0, at), port: Number(place.slice(at + 1)) };
});
const options = password ? { password, sentinelPassword: password } : {};
const client = new Redis({ sentinels: places, name, ...options, commandTimeout: 1000, connectTimeout: 1000 });
client.on("error", () => {}); // each command that fails tells of it

let ended = false;
process.stdin.on("end", () => (ended = true)).resume();

(async () => {
  for (let number = 0; !ended; number++) {
    try {
      await client.set(`node:${number}`, number);
      console.log(`ok ${number}`);
    } catch (error) {
      console.log(`error ${number} ${error.message}`); // an application would go on, too
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  process.exit(0);
})();
