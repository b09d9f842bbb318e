const form = document.getElementById("login"), trouble = document.getElementById("trouble");
form.addEventListener("submit", async event => {
  event.preventDefault();
  const answer = await fetch("/api/login", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token: form.token.value }),
  });
  if (answer.ok) location.replace("/");
  else { trouble.hidden = false; trouble.textContent = (await answer.json()).error; form.token.select(); }
});
form.token.focus();
